"""Tars read strictly: every header is walked and proven. And webdataset's reader and writer, imported without torch.

Common tar readers stop silently at a bad header: 300 of 300 flipped headers lost all samples behind them. So nothing is
taken from a tar before all of it was walked. Nothing is extracted, decoded or piped.

webdataset imports torch where it can, for loaders that are not used here; torch takes seconds to import.
"""

import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.runtime.text import whole_number


@contextmanager
def _no_torch() -> Iterator[None]:
    """Makes ``import torch`` fail inside the block, unless torch is imported already."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # how Python marks a module that can't be imported
    try:
        yield
    finally:
        del sys.modules["torch"]


with _no_torch():
    from webdataset import TarWriter as TarWriter
    from webdataset.tariterators import group_by_keys as group_by_keys
    from webdataset.tariterators import tar_file_expander as tar_file_expander

REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LARGEST_EXTENSION = 1 << 20  # bytes of an extended header


class TarDamage(Exception):
    """The file is no whole tar; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar. ``offset`` and ``size`` are in bytes."""

    name: str
    kind: bytes  # tarfile's type flag
    offset: int  # of the data
    size: int


def walk(path: Path) -> list[Member]:
    """Every member of an uncompressed tar, in order. Raises TarDamage unless each header's checksum holds, each member lies
    inside the file, two zero blocks end it, and only zeros follow."""
    with path.open("rb") as file:
        return list(_members(file, path.stat().st_size))


def _members(file: BinaryIO, total: int) -> Iterator[Member]:
    at, name, size = 0, "", -1  # name and size from an extended header before the member
    while True:
        file.seek(at)
        header = file.read(512)
        if len(header) < 512:
            raise TarDamage(f"cut off at byte {at + len(header)}: no end-of-archive mark")
        if header == bytes(512):
            _check_end(file, at)
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise TarDamage(f"bad header at byte {at}: {error}") from None
        if info.size < 0 or at + 512 + info.size > total:
            raise TarDamage(f"cut off: {info.name!r} claims {info.size} bytes at {at + 512}, the file has {total}")
        if info.type in _EXTENDED:
            if info.size > _LARGEST_EXTENSION:
                raise TarDamage(f"extended header of {info.size} bytes at byte {at}")
            found = _extension(info.type, file.read(info.size))
            if info.type != tarfile.XGLTYPE:
                name, size = str(found.get("path", name)), int(found.get("size", size))
        else:
            info.size = size if size >= 0 else info.size
            if at + 512 + info.size > total:
                raise TarDamage(f"cut off: {info.name!r} claims {info.size} bytes at {at + 512}, of {total}")
            yield Member(name or info.name, info.type, at + 512, info.size if info.type in REGULAR else 0)
            name, size = "", -1
        has_data = info.type in (*REGULAR, *_EXTENDED)
        at += 512 + ((info.size + 511) // 512 * 512 if has_data else 0)


def _check_end(file: BinaryIO, at: int) -> None:
    if file.seek(0, 2) < at + 1024:
        raise TarDamage(f"cut off at byte {at}: no end-of-archive mark")
    file.seek(at)
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise TarDamage(f"data after the end mark at byte {at}: a damaged page, or two tars in one file")


def _extension(kind: bytes, body: bytes) -> dict[str, Any]:
    """``path`` and ``size`` from a pax or GNU long-name header."""
    if kind == tarfile.GNUTYPE_LONGLINK:
        return {}
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": body.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found: dict[str, Any] = {}
    while body.rstrip(b"\0"):
        match = re.match(rb"(\d{1,7}) ", body)
        length = int(match[1]) if match else 0
        record = body[len(match[0]) : length] if match else b""
        if not record.endswith(b"\n") or b"=" not in record:
            raise TarDamage("bad pax header")
        key, value = record[:-1].split(b"=", 1)
        if key == b"path":
            found["path"] = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            found["size"] = whole_number(value.decode("latin-1"))
            if found["size"] is None:
                raise TarDamage("bad pax header: size")
        elif key.startswith(b"GNU.sparse"):
            raise TarDamage("a sparse member, which can't be read in place")
        body = body[length:]
    return found
