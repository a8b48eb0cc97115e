"""Files that are whole or absent: canonical JSON, checksums, durable writes."""

import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import IntegrityError, RetryError, UsageError
from pipeline.runtime.progress import say

_DEEPEST = 64
_LARGEST_SMALL = 1 << 30  # bytes; ImageNet's receipt has 0.6 MB, its index 0.2 GB
_TOO_DEEP = f"lists or objects nested more than {_DEEPEST} deep"


def canonical_json(value: object) -> bytes:
    """One byte string for one value: sorted keys, no spaces, ASCII, newline at the end; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def digest(value: object) -> str:
    """sha256 in hex of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON document. Raises ValueError for whatever is wrong with it: no JSON, no UTF-8, a number of more than
    4,300 digits, or nesting deeper than any of ours, on which Python's own functions would fail."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def require_regular(path: Path, most: float = math.inf) -> None:
    """Raises IntegrityError, before a byte is read, for a device, pipe or socket, which may never end, and for a file of more
    than ``most`` bytes. A folder and a missing file are its reader's to name."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise IntegrityError(
            f"{path}: expected a file, found a device, pipe or socket; remove it, or copy the file again"
        )
    if status.st_size > most:
        raise IntegrityError(f"{path}: {status.st_size} bytes, expected at most {most:.0f}; copy or write it again")


def read_small(path: Path) -> bytes:
    """The content of a file of metadata. Raises OSError, and what ``require_regular`` raises."""
    require_regular(path, _LARGEST_SMALL)
    return path.read_bytes()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits. Raises OSError, and what ``require_regular`` raises."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Makes a file's content, or the names in a directory, survive a power cut before it returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Writes ``content`` under a temporary name, fsyncs it, renames it to ``path`` and fsyncs the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def copy_file(source: Path, copy: Path) -> None:
    """Copies one file, whose folder is made; the kernel shares the blocks (reflink) where the file system can."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, copy.open("wb") as writer:
        with suppress(OSError):  # not supported between these two: the loop below copies all of it
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        reader.seek(writer.seek(0, os.SEEK_END))
        shutil.copyfileobj(reader, writer, 1 << 20)


def require_own(out: Path, marks: tuple[str, ...]) -> None:
    """Raises UsageError (exit 2) if ``out`` is not this stage's own output: it holds something, but none of ``marks``, the
    names that this stage writes."""
    if out.is_symlink() or not out.exists() or any((out / mark).exists() for mark in marks):
        return
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError(
            f"{out}: expected a new or empty directory, or one with {' or '.join(marks)}; nothing was touched"
        )


@contextmanager
def whole_directory(out: Path, marks: tuple[str, ...]) -> Iterator[Path]:
    """Yields an empty directory beside ``out``, which replaces ``out`` when the block ends well and is removed otherwise: a
    stage's output is the old one or the new one, never half of each. ``marks``: see ``require_own``."""
    require_own(out, marks)
    for leftover in out.parent.glob(f".{out.name}.*.partial"):
        say(f"{leftover}: a killed run left this behind; remove it if no other run is at work")
    fresh, old = (out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial") for _ in range(2))
    fresh.mkdir(parents=True)
    try:
        yield fresh
        fsync(fresh)
        if out.is_symlink():
            out.unlink()
        elif out.exists():
            out.rename(old)
        fresh.rename(out)
        fsync(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


@contextmanager
def retry_if_replaced(where: str, sha256: str, current: Callable[[], str]) -> Iterator[None]:
    """If the block raises IntegrityError and the manifest of the folder ``where``, whose hash ``current`` asks for, no longer has
    this hash: raises RetryError (exit 75) instead."""
    try:
        yield
    except IntegrityError:
        try:
            there = current() == sha256
        except (OSError, IntegrityError):
            there = False
        if there:
            raise
        raise RetryError(
            f"{where}: removed or replaced while this job reads it, most likely by a dvc repro in the same clone, which "
            f"removes a stage's outputs before it runs; let jobs read a copy (--shards) or wait for it, then run the same "
            f"command again"
        ) from None
