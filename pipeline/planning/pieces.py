"""The named pieces of params.yaml as models, and which of them go together.

A student names its recipe, training, cache, teacher and parent, a cache its recipe and teacher, a teacher its recipe and
perhaps a student that teaches; what a piece does not use is the word ``none``. Imports no torch: this is what every
``dvc repro`` checks first.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.constraints import require_coverage, require_period, require_repeats, require_together
from pipeline.cache.layout import CacheConfig
from pipeline.data.sources import DataConfig
from pipeline.data.test_sets import VAL, WITHOUT_REAL, SetConfig, no_real_labels
from pipeline.runtime.config import NAME, NONE, C, validate
from pipeline.runtime.errors import UsageError
from pipeline.student.config import StudentConfig
from pipeline.teacher.config import TeacherConfig
from pipeline.training.config import FitConfig, LoopConfig, TrainConfig
from pipeline.views.recipe import Recipe

_LONGEST = 100  # characters of a name: file names and DVC's stage names are made of it
SECTIONS = ("recipes", "teachers", "caches", "trainings", "students", "test_sets")


@dataclass(frozen=True)
class Pieces:
    """All of params.yaml, each piece by its name. Pieces that ``examine`` found unsound are left out, ``data`` is then
    None."""

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


def parse(params: Mapping[str, Any]) -> Pieces:
    """The pieces of ``params``, which go together. Raises UsageError with every problem on a line of its own."""
    pieces, problems = examine(params)
    raise_all(problems)
    return pieces


def examine(params: Mapping[str, Any]) -> tuple[Pieces, list[str]]:
    """The pieces of ``params`` that are sound by themselves, and every problem: of sections, of keys, of names, and of
    what does not go together. Without a problem the pieces are all there."""
    problems: list[str] = []
    known = ("data", *SECTIONS)
    extra, missing = sorted(set(params) - set(known)), [name for name in known if name not in params]
    if extra or missing:
        problems.append(f"sections: unknown {', '.join(extra) or 'none'}, missing {', '.join(missing) or 'none'}")
    data: DataConfig | None = None
    if "data" in params:
        with _noting(problems):
            data = validate(DataConfig, params["data"], "data")
    pieces = Pieces(
        data,
        _section(params, "recipes", Recipe, problems),
        _section(params, "teachers", TeacherConfig, problems),
        _section(params, "caches", CacheConfig, problems),
        _section(params, "trainings", TrainConfig, problems),
        _section(params, "students", StudentConfig, problems),
        _section(params, "test_sets", SetConfig, problems),
    )
    if VAL in pieces.test_sets:
        problems.append(f"test_sets.{VAL}: this name is the validation split's, which is always scored; choose another")
    for name, chosen in pieces.test_sets.items():
        if chosen.labels == "real" and data is not None and data.source in WITHOUT_REAL:
            problems.append(no_real_labels(f"test_sets.{name}: data.source {data.source}"))
    for name, teacher in pieces.teachers.items():
        if teacher.fit is not None:
            with _noting(problems):
                validate(FitConfig, dict(teacher.fit), f"teachers.{name}.fit")
    problems += [*_unknown_names(pieces, params), *_circles(pieces), *_too_few_images(pieces)]
    problems += [problem for name in pieces.students for problem in _misfits(pieces, name)]
    return pieces, problems


class _noting:
    """Notes the refusals of a block in a list and goes on behind it."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, UsageError):
            self.problems.append(str(error))
        return isinstance(error, UsageError)


def raise_all(problems: list[str]) -> None:
    """Raises UsageError with every problem on a line of its own; nothing where there is none."""
    if problems:
        raise UsageError("\n".join(problems))


def _section(params: Mapping[str, Any], section: str, model: type[C], problems: list[str]) -> dict[str, C]:
    entries, found = params.get(section), {}
    may_be_empty = section in ("teachers", "caches", "test_sets")  # undistilled students need neither
    if not isinstance(entries, dict) or not (entries or may_be_empty):
        if section in params:
            problems.append(f"{section}: expected a mapping with at least one entry, found {entries!r}")
        return {}
    for name, entry in entries.items():
        if not re.fullmatch(NAME, name) or name == NONE or len(name) > _LONGEST:
            problems.append(
                f"{section}.{name[:80]}: expected a name of at most {_LONGEST} letters, digits, _ and -, since it names a "
                f"directory, and not {NONE!r}, which stands for what a piece does not use"
            )
            continue
        with _noting(problems):
            found[name] = validate(model, entry, f"{section}.{name}")
    return found


def _links(pieces: Pieces) -> Iterator[tuple[str, str, str, bool]]:
    """Every name that a piece gives: (its key, section that it names, name, whether it may be ``none``)."""
    for name, teacher in pieces.teachers.items():
        yield f"teachers.{name}.recipe", "recipes", teacher.recipe, False
        yield f"teachers.{name}.student", "students", teacher.student, True
    for name, cache in pieces.caches.items():
        yield f"caches.{name}.recipe", "recipes", cache.recipe, False
        yield f"caches.{name}.teacher", "teachers", cache.teacher, False
    for name, student in pieces.students.items():
        yield f"students.{name}.recipe", "recipes", student.recipe, False
        yield f"students.{name}.training", "trainings", student.training, False
        yield f"students.{name}.cache", "caches", student.cache, True
        yield f"students.{name}.teacher", "teachers", student.teacher, True
        yield f"students.{name}.parent", "students", student.parent, True


def _unknown_names(pieces: Pieces, params: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, section, name, optional in _links(pieces):
        there = params.get(section)
        there = there if isinstance(there, dict) else {}  # an unsound piece is named elsewhere
        if name not in there and not (optional and name == NONE):
            known = ", ".join([*there, *([NONE] if optional else [])])
            problems.append(f"{key}: there is no {name!r} under {section} (there is {known or 'nothing'})")
    return problems


def _circles(pieces: Pieces) -> list[str]:
    """Students and teachers that wait for themselves; DVC's own sentence names no way out."""
    waits: dict[str, list[str]] = {}
    for key, section, name, _ in _links(pieces):
        if name != NONE and section in ("teachers", "caches", "students"):
            waits.setdefault(key.rpartition(".")[0], []).append(f"{section}.{name}")
    for start in waits:
        todo, seen = list(waits[start]), set[str]()
        while todo:
            piece = todo.pop()
            if piece == start:
                return [f"{start}: waits for itself through {', '.join(waits[start])}; break the circle"]
            if piece not in seen:
                seen.add(piece)
                todo += waits.get(piece, [])
    return []


def _too_few_images(pieces: Pieces) -> Iterator[str]:
    """Trainings and fits without a single step, where ``data.expected`` tells N."""
    if pieces.data is None or pieces.data.expected is None:
        return
    samples, loops = pieces.data.expected.train, dict[str, LoopConfig]()
    for student in pieces.students.values():
        if student.training in pieces.trainings:
            loops[f"trainings.{student.training}"] = pieces.trainings[student.training]
    for name, teacher in pieces.teachers.items():
        if teacher.fitted_here and teacher.fit is not None:
            with _noting([]):  # noted before
                loops[f"teachers.{name}.fit"] = validate(FitConfig, dict(teacher.fit), name)
    for key, how in loops.items():
        if int(how.epochs * samples / how.batch) < 1:
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
        with _noting(problems):
            require_repeats(training.repeats, cache.group)
    period = training.period or (cache.views if cache is not None else training.repeats)
    with _noting(problems):
        if pieces.recipes[student.recipe].shared_pairing == training.repeats:
            require_together(training.batch, training.lanes, training.repeats)
    with _noting(problems):
        require_period(period, training.repeats)
        if cache is not None and student.supervision == "cached":
            require_coverage(period, cache.views)
    for problem in problems:
        yield f"{key}: {problem}"
