"""Whether params.yaml can run: what timm and local files show of models and weights before any stage starts.

``planning.models`` builds the models. That needs torch and timm, whose import takes seconds; so the work pool remembers
what has passed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.base.files import digest, sha256_file, write_durably
from pipeline.cache.codec import require_codec
from pipeline.data.sources import expected_classes
from pipeline.planning.pieces import Pieces, examine_pieces
from pipeline.runtime.code import ROOT
from pipeline.runtime.config import is_hub
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from pipeline.runtime.libraries import compiler_missing, installed
from pipeline.runtime.machine import pool_root
from pipeline.runtime.progress import say

_LIBRARIES = ("torch", "torchvision", "timm", "pydantic")


def check(params: Mapping[str, Any], environment: Mapping[str, str], files: bool = True) -> Pieces:
    """The pieces of ``params``, checked whole; without ``files`` no local file is read, since it need not be there yet.

    Raises UsageError (IntegrityError, if damaged files are all there is) with every problem on a line of its own: sections,
    keys, names, pieces that do not go together, models that timm refuses or that do not take their views, local weights
    that are missing, damaged or do not fit. What only this machine lacks is a warning: another one may run the stages.
    """
    pieces, found = examine_pieces(params)
    problems: list[PipelineError] = [UsageError(problem) for problem in found]
    classes = None
    if files:
        problems += [UsageError(problem) for problem in _missing_files(pieces)]
        try:
            classes = expected_classes(pieces.data, environment) if pieces.data is not None else None
        except PipelineError as error:
            problems.append(error)
    known = classes or (pieces.data.classes if pieces.data is not None else None)
    problems += [UsageError(problem) for problem in _unfit_codecs(pieces, known)]
    mark = None if problems else pool_root() / "checked" / _key(params, pieces, classes, files)
    if mark is None or not mark.is_file():
        from pipeline.planning.models import misfits

        problems += misfits(pieces, classes, files)
    if problems:
        kind = IntegrityError if all(isinstance(problem, IntegrityError) for problem in problems) else UsageError
        raise kind("\n".join(map(str, problems)))
    with suppress(OSError):  # a pool that can't be written costs seconds at the next check, and no more
        if mark is not None and not mark.is_file():
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_durably(mark, b"")
    for warning in _lacking_here(pieces):
        say(f"warning: {warning}")
    return pieces


def _missing_files(pieces: Pieces) -> Iterator[str]:
    for key, name in pieces.named_weights().items():
        if name is not None and not is_hub(name) and not Path(name).is_file():
            yield f"{key}: no such file {name}; correct it, or name a hub model"


def _unfit_codecs(pieces: Pieces, classes: int | None) -> Iterator[str]:
    if classes is None:
        return
    named = {f"caches.{name}": cache.codec for name, cache in pieces.caches.items()}
    named |= {f"students.{name}": entry.codec for name, entry in pieces.students.items() if entry.codec is not None}
    for key, codec in named.items():
        try:
            require_codec(codec, classes)
        except UsageError as error:
            yield f"{key}: {error}"


def _lacking_here(pieces: Pieces) -> Iterator[str]:
    """What pieces ask for and this machine lacks."""
    compiled = [f"teachers.{name}" for name, teacher in pieces.teachers.items() if teacher.compile]
    compiled += [f"teachers.{n}.fit" for n, teacher in pieces.teachers.items() if (teacher.fit or {}).get("compile")]
    compiled += [f"trainings.{name}" for name, training in pieces.trainings.items() if training.compile]
    lacking = compiler_missing()
    if compiled and lacking:
        yield f"compile: true in {', '.join(compiled)}, and here is {lacking}; the machine that runs it needs one"


def refused_by_dvc(project: Path) -> str:
    """One sentence where ``work`` leads out of the project's git repository, which DVC refuses in its own words; else ""."""
    work = project / "work"
    settings = [project / ".dvc" / name for name in ("config", "config.local")]
    without_git = any(re.search(r"no_scm\s*=\s*true", file.read_text()) for file in settings if file.is_file())
    if without_git or not (project / ".git").exists() or work.resolve().is_relative_to(project.resolve()):
        return ""
    return (
        f"{work} is a link to {work.resolve()}, and DVC takes no outputs outside of a git repository; let it work without git: "
        f"dvc config --local core.no_scm true (dvc.lock is still yours to commit), or bind the disk: mount --bind"
    )


def _key(params: Mapping[str, Any], pieces: Pieces, classes: int | None, files: bool) -> str:
    """Hash of all that the check depends on: params, C, code, libraries, and size and time of named local weights."""
    named = (Path(name) for name in pieces.named_weights().values() if name is not None and not is_hub(name))
    seen = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in named if files and path.is_file()}
    code = {str(path.relative_to(ROOT)): sha256_file(path) for path in sorted((ROOT / "pipeline").rglob("*.py"))}
    return digest([json.loads(json.dumps(params)), classes, seen, code, installed(_LIBRARIES)])
