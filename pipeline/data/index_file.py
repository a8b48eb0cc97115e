"""``index.tsv``: the files of a source as they were when ``index`` ran, and the order of the training images."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.base import files
from pipeline.data.listing import File
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.text import clipped

_HEADER, _ORDERED = "#offline-deit index 1", "#offline-deit index 2"


class Order(NamedTuple):
    """What the head of an ``index.tsv`` says whose first ``train`` files are the training images in the order of packing:
    ``data.seed`` and ``data.val_share``, for which it was made."""

    seed: int
    share: float | None
    train: int


def write_listing(path: Path, source: str, listed: Iterable[File], order: Order | None = None) -> None:
    """Writes ``index.tsv``: path, size, stamp; the last line is the sum of the others."""
    head = f"{_HEADER} {source}" if order is None else f"{_ORDERED} {source} {json.dumps(order)}"
    lines = [head, *(f"{file.path}\t{file.size}\t{file.stamp}" for file in listed)]
    content = ("\n".join(lines) + "\n").encode("utf-8")
    files.write_durably(path, content + _sum_line(content))


def read_listing(path: Path, source: str) -> list[File]:
    """Reads ``index.tsv``. Raises UsageError if it is missing or of another source, IntegrityError if damaged."""
    again = "write it with: python -m stages.index"
    try:
        content = files.read_small(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: {error.strerror}; {again}") from None
    start = content.rfind(b"\n", 0, -1) + 1  # of the last line
    if content[start:] != _sum_line(content[:start]):
        raise IntegrityError(f"{path}: damaged, cut off or of an older version: its last line is not its sum; {again}")
    lines = content[:start].decode("utf-8").split("\n")
    if lines[0] != f"{_HEADER} {source}" and not lines[0].startswith(f"{_ORDERED} {source} "):
        raise UsageError(f"{path}: expected the line {_HEADER + ' ' + source!r} first, found {lines[0]!r}; {again}")
    rows = [line.split("\t") for line in lines[1:-1]]
    listed = [File(name, int(size), stamp) for name, size, stamp in rows]
    if not listed:
        raise IntegrityError(f"{path}: empty; {again}")
    return listed


def read_order(path: Path, source: str) -> Order | None:
    """The order that the head of ``index.tsv`` names, None without or of another source. Raises OSError, IntegrityError."""
    with path.open("rb") as file:
        head = file.readline(1000).decode("utf-8", "replace")
    start = f"{_ORDERED} {source} "
    if not head.startswith(start):
        return None
    try:
        return Order(*json.loads(head.removeprefix(start)))
    except (ValueError, TypeError):
        raise IntegrityError(f"{path}: damaged: its first line is {clipped(repr(head), 80)}") from None


def _sum_line(content: bytes) -> bytes:
    """The last line of ``index.tsv``: the SHA-256 of all before it."""
    return f"#sha256 {hashlib.sha256(content).hexdigest()}\n".encode("ascii")
