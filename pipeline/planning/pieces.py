"""The named pieces of params.yaml as models, and which of them go together.

A student names its recipe, training, cache, teacher and parent, a cache its recipe and teacher, a teacher its recipe and
perhaps a student that teaches; what a piece does not use is the word ``none``. Imports no torch: this is what every
``dvc repro`` checks first.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from pipeline.base.constraints import require_coverage, require_period, require_repeats, require_together
from pipeline.cache.layout import CacheConfig
from pipeline.data.sources import DataConfig
from pipeline.data.test_sets import VAL, WITHOUT_REAL, SetConfig, no_real_labels
from pipeline.runtime.config import NAME, NONE, Config, validate
from pipeline.runtime.errors import UsageError
from pipeline.runtime.text import clipped
from pipeline.student.config import StudentConfig
from pipeline.teacher.config import TeacherConfig
from pipeline.training.config import FitConfig, LoopConfig, TrainConfig
from pipeline.views.recipe import Recipe

R = TypeVar("R")
_LONGEST = 100  # characters of a name: file names and DVC's stage names are made of it
MODELS: Mapping[str, type[Config]] = {
    "data": DataConfig,
    "recipes": Recipe,
    "teachers": TeacherConfig,
    "caches": CacheConfig,
    "trainings": TrainConfig,
    "students": StudentConfig,
    "test_sets": SetConfig,
}
_LINKS = {  # the fields of a piece that name another one, and the section that it stands in
    "teachers": {"recipe": "recipes", "student": "students"},
    "caches": {"recipe": "recipes", "teacher": "teachers"},
    "students": {
        "recipe": "recipes",
        "training": "trainings",
        "cache": "caches",
        "teacher": "teachers",
        "parent": "students",
    },
}
_MAY_BE_NONE = ("teachers.student", "students.cache", "students.teacher", "students.parent")


@dataclass(frozen=True)
class Pieces:
    """All of params.yaml, each piece by its name. ``examine_pieces`` leaves out unsound ones; ``data`` is then None."""

    data: DataConfig | None
    recipes: Mapping[str, Recipe]
    teachers: Mapping[str, TeacherConfig]
    caches: Mapping[str, CacheConfig]
    trainings: Mapping[str, TrainConfig]
    students: Mapping[str, StudentConfig]
    test_sets: Mapping[str, SetConfig]

    def named_weights(self) -> dict[str, str | None]:
        """The weights that the configuration names, by their key."""
        of_teachers = {f"teachers.{name}.weights": entry.weights for name, entry in self.teachers.items()}
        of_teachers |= {f"teachers.{name}.initial": entry.initial for name, entry in self.teachers.items()}
        return of_teachers | {f"students.{name}.initial": entry.initial for name, entry in self.students.items()}


def parse_pieces(params: Mapping[str, Any]) -> Pieces:
    """The pieces of ``params``, which go together. Raises UsageError with every problem on a line of its own."""
    pieces, problems = examine_pieces(params)
    if problems:
        raise UsageError("\n".join(problems))
    return pieces


def examine_pieces(params: Mapping[str, Any]) -> tuple[Pieces, list[str]]:
    """The pieces of ``params`` that are sound by themselves, and every problem: of sections, keys and names, and of pieces
    that do not go together. Without a problem no piece is missing."""
    problems: list[str] = []
    extra, missing = sorted(set(params) - set(MODELS)), [name for name in MODELS if name not in params]
    if extra or missing:
        problems.append(f"sections: unknown {', '.join(extra) or 'none'}, missing {', '.join(missing) or 'none'}")
    data = _note(problems, validate, DataConfig, params["data"], "data") if "data" in params else None
    pieces = Pieces(data, **{name: _section(params, name, problems) for name in MODELS if name != "data"})
    if VAL in pieces.test_sets:
        problems.append(f"test_sets.{VAL}: this name is the validation split's, which is always scored; choose another")
    for name, chosen in pieces.test_sets.items():
        if chosen.labels == "real" and data is not None and data.source in WITHOUT_REAL:
            problems.append(no_real_labels(f"test_sets.{name}: data.source {data.source}"))
    fits = {
        f"teachers.{name}.fit": _note(problems, validate, FitConfig, dict(teacher.fit), f"teachers.{name}.fit")
        for name, teacher in pieces.teachers.items()
        if teacher.fit is not None
    }
    problems += [*_unknown_names(pieces, params), *_circles(pieces), *_too_few_images(pieces, fits)]
    problems += [problem for name in pieces.students for problem in _misfits(pieces, name)]
    return pieces, problems


def _note(problems: list[str], check: Callable[..., R], *given: Any) -> R | None:
    """What ``check`` returns; where it refuses, its sentence is added to ``problems``."""
    try:
        return check(*given)
    except UsageError as error:
        problems.append(str(error))
        return None


def _section(params: Mapping[str, Any], section: str, problems: list[str]) -> dict[str, Any]:
    entries, found = params.get(section), {}
    may_be_empty = section in ("teachers", "caches", "test_sets")  # undistilled students need neither
    if not isinstance(entries, dict) or not (entries or may_be_empty):
        if section in params:
            problems.append(
                f"{section}: expected a mapping with at least one entry, found {clipped(repr(entries), 80)}"
            )
        return {}
    for name, entry in entries.items():
        if not re.fullmatch(NAME, name) or name == NONE or len(name) > _LONGEST:
            problems.append(
                f"{section}.{name[:80]}: expected a name of at most {_LONGEST} letters, digits, _ and -, since it names a "
                f"directory, and not {NONE!r}, which stands for what a piece does not use"
            )
        elif piece := _note(problems, validate, MODELS[section], entry, f"{section}.{name}"):
            found[name] = piece
    return found


def _links(pieces: Pieces) -> Iterator[tuple[str, str, str, bool]]:
    """Every name that a piece gives: (its key, section that it names, name, whether it may be ``none``)."""
    for section, fields in _LINKS.items():
        for name, piece in getattr(pieces, section).items():
            for field, named in fields.items():
                optional = f"{section}.{field}" in _MAY_BE_NONE
                yield f"{section}.{name}.{field}", named, getattr(piece, field), optional


def _unknown_names(pieces: Pieces, params: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, section, name, optional in _links(pieces):
        there = params.get(section)
        there = there if isinstance(there, dict) else {}  # an unsound piece is named elsewhere
        if name not in there and not (optional and name == NONE):
            known = ", ".join([*there, *([NONE] if optional else [])])
            problems.append(
                f"{key}: there is no {clipped(repr(name), 80)} under {section} (there is {known or 'nothing'})"
            )
    return problems


def _circles(pieces: Pieces) -> list[str]:
    """A circle of pieces that wait for each other; DVC's own message names no way out."""
    waits = TopologicalSorter[str]()
    for key, section, name, _ in _links(pieces):
        if name != NONE:
            waits.add(key.rpartition(".")[0], f"{section}.{name}")
    try:
        waits.prepare()
    except CycleError as error:
        first, *others = reversed(error.args[1])
        return [f"{first}: waits for itself: it waits for {', which waits for '.join(others)}; break the circle"]
    return []


def _too_few_images(pieces: Pieces, fits: Mapping[str, FitConfig | None]) -> Iterator[str]:
    """Trainings and fits that take no step, where ``data.expected`` gives N."""
    if pieces.data is None or pieces.data.expected is None:
        return
    samples = pieces.data.expected.train
    used = {student.training for student in pieces.students.values()}
    loops: dict[str, LoopConfig | None] = {f"trainings.{n}": of for n, of in pieces.trainings.items() if n in used}
    loops |= {key: fit for key, fit in fits.items() if pieces.teachers[key.split(".")[1]].fitted_here}
    for key, how in loops.items():
        if how is not None and int(how.epochs * samples / how.batch) < 1:
            yield (
                f"{key}: {how.epochs:g} epochs of {samples} images (data.expected.train) make no step of batch {how.batch}; "
                f"lower batch, or raise epochs"
            )


def _misfits(pieces: Pieces, name: str) -> Iterator[str]:
    """What does not go together in one student: views, steps, codec, teachers."""
    student, key = pieces.students[name], f"students.{name}"
    training = pieces.trainings.get(student.training)
    if training is None or student.recipe not in pieces.recipes:  # unsound or unknown, which is named elsewhere
        return
    cache = pieces.caches.get(student.cache)
    if cache is None and student.cache != NONE:
        return
    problems: list[str] = []
    if cache is not None:
        if cache.recipe != student.recipe:
            yield (
                f"{key}.cache: {student.cache} holds views of recipe {cache.recipe}, the student learns from recipe "
                f"{student.recipe}; name a cache of that recipe"
            )
        if student.teacher not in (NONE, cache.teacher):
            yield (
                f"{key}.teacher: {student.teacher} is not the teacher of cache {student.cache}, which is {cache.teacher}; "
                f"name that one, or {NONE}"
            )
        if student.distillation == "soft" and cache.codec == NONE:
            yield (
                f"{key}: soft distillation needs logits, and caches.{student.cache}.codec is none (hard labels only); set "
                f"cache.codec=top16 (52 bytes per view at 1,000 classes), u8 (1 byte per class and view) or f16 (2 bytes)"
            )
        _note(problems, require_repeats, training.repeats, cache.group)
    period = training.period or (cache.views if cache is not None else training.repeats)
    if pieces.recipes[student.recipe].shared_pairing == training.repeats:
        _note(problems, require_together, training.batch, training.lanes, training.repeats)
    _note(problems, require_period, period, training.repeats)
    if cache is not None and student.supervision == "cached":
        _note(problems, require_coverage, period, cache.views)
    for problem in problems:
        yield f"{key}: {problem}"
