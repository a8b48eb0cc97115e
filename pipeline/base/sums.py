"""``sums.json``: the SHA-256 of the files of a directory that one stage writes and others read.

It stands in that directory, beside the files or one folder above them, and holds no time and no machine, so that equal outputs
stay equal. Tars, caches and checkpoints have records of their own.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base import files
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.progress import say

SUMS = "sums.json"
_AGAIN = "write the directory again with the stage that made it (dvc repro does)"


@contextmanager
def summed_directory(out: Path, marks: tuple[str, ...], covered: str = "**/*") -> Iterator[Path]:
    """``files.whole_directory``, with the sums of the files that the pattern ``covered`` names."""
    with files.whole_directory(out, marks) as fresh:
        yield fresh
        named = {path.relative_to(fresh).as_posix(): path for path in fresh.glob(covered) if path.is_file()}
        sums = {name: files.sha256_file(path) for name, path in named.items()}
        files.write_durably(fresh / SUMS, files.canonical_json(sums))


def require_unchanged(path: Path) -> None:
    """Compares the file ``path`` with the sums of its directory, before it is read; a file without sums (of an older version)
    is said once per directory, and whether there is a file at all is the reader's to say.

    Raises IntegrityError where it has other bytes, or where a file of the directory is gone.
    """
    home = _home(path)
    if home is None:
        if path.exists():
            _say_unproven(path.parent)
        return
    sums = _read(home)
    missing = [name for name in sums if not (home / name).is_file()]
    if missing:
        raise IntegrityError(f"{home / missing[0]}: missing, {SUMS} names it; {_AGAIN}")
    expected = sums.get(path.relative_to(home).as_posix())
    try:
        found = files.sha256_file(path)
    except OSError as error:
        raise IntegrityError(f"{path}: {error.strerror}; {_AGAIN}") from None
    if found != expected:
        raise IntegrityError(f"{path}: damaged, sha256 is {found}, {SUMS} says {expected or 'nothing of it'}; {_AGAIN}")


def require_sums(*paths: Path) -> None:
    """``require_unchanged`` for what a training learns from: raises UsageError where a file is there without sums."""
    for path in paths:
        if path.exists() and _home(path) is None:
            raise UsageError(f"{path.parent}: has no {SUMS}, and nothing is trained from files without; {_AGAIN}")
        require_unchanged(path)


def _home(path: Path) -> Path | None:
    """The directory whose sums name ``path``: its own, or the one above."""
    return next((home for home in (path.parent, path.parent.parent) if os.path.lexists(home / SUMS)), None)


def _read(home: Path) -> dict[str, str]:
    try:
        content = files.read_small(home / SUMS)
        sums = files.parse_json(content)
        if not isinstance(sums, dict) or files.canonical_json(sums) != content:
            raise ValueError("not what a stage writes")
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{home / SUMS}: damaged ({error}); {_AGAIN}") from None
    return sums


@functools.cache
def _say_unproven(directory: Path) -> None:
    say(f"warning: {directory}: has no {SUMS}, so damage in it may pass unseen; {_AGAIN}")
