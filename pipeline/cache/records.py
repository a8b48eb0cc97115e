"""What proves a cache: checksums of its files, digests of its rows, commit records, receipts.

A commit record is one JSON file per part: identity, part, size and xxh3_128 of every file, sha256 of the source shard, and
per view and block two xxh3_64: of the uint8 pixels that the teacher saw and of the unpacked rows. It has its own checksum. A
receipt replaces a cache that is too big to publish, and holds the checksums of its records.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline.base import files
from pipeline.cache.codec import unpack
from pipeline.cache.layout import RECEIPT, Part, Pins, Store
from pipeline.runtime.errors import IntegrityError

RECORD_FORMAT = "offline-deit part"
RECORD_VERSION = 1
RECEIPT_FORMAT = "offline-deit receipt"
RECEIPT_VERSION = 1
ANEW = "dvc repro -s -f precompute@NAME"
RELABEL = f"remove this cache from the work pool and label it anew: {ANEW}, or python -m stages.precompute --cache NAME"
REPAIR = f"repair: python -m stages.verify --repair POOL, then {ANEW} or python -m stages.precompute --cache NAME"

Sum = tuple[int, str]  # bytes and xxh3_128 of a file


@dataclass(frozen=True)
class Record:
    """The commit record of one part. ``pixels`` and ``rows``: per view, 16 hex digits for each block."""

    part: Part
    files: dict[str, Sum]  # by array
    pixels: tuple[str, ...]
    rows: tuple[str, ...]
    checksum: str

    def pixel_digest(self, view: int, block: int) -> str:
        """xxh3_64 of the uint8 pixels of a view (counted in the part) of a block (in the shard)."""
        return self.pixels[view][16 * block : 16 * block + 16]

    def row_digest(self, view: int, block: int) -> str:
        return self.rows[view][16 * block : 16 * block + 16]


def file_sum(path: Path) -> Sum | None:
    """Bytes and xxh3_128 (32 hex digits) of a file, None if there is none.

    Not crc32c: zarr ends every chunk with its crc32c, and crc32c(data + its crc) is a constant, so a chunk exchanged for
    another valid one would have the same checksum.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
            return file.tell(), checksum
    except FileNotFoundError:  # moved between the two looks
        return None


def require_file(path: Path, expected: Sum, found: Sum | None) -> None:
    """Raises IntegrityError unless ``found``, the ``file_sum`` of ``path`` or of a copy, is what the record says."""
    if found != expected:
        seen = f"{found[0]} bytes, xxh3 {found[1]}" if found else "no file"
        raise IntegrityError(f"{path}: expected {expected[0]} bytes, xxh3 {expected[1]}, found {seen}; {REPAIR}")


def require_bytes(path: Path, size: int) -> None:
    """Raises IntegrityError unless ``path`` is a file of ``size`` bytes."""
    try:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
    except FileNotFoundError:  # moved between the two looks
        found = "no file"
    if found != f"{size} bytes":
        raise IntegrityError(f"{path}: expected {size} bytes, found {found}; {REPAIR}")


def row_digest(identity: str, part: Part, view: int, block: int, hard: np.ndarray, logits: np.ndarray | None) -> str:
    """xxh3_64 of a view (counted in the part) of a block: hard uint16 (n,), unpacked logits float32 (n, C). It begins with
    (identity, part, view, block), so that equal rows at another place have another digest."""
    state = xxhash.xxh3_64(f"{identity} {part[0]} {part[1]} {view} {block} {len(hard)}\n".encode("ascii"))
    state.update(np.ascontiguousarray(hard, "<u2").data)
    if logits is not None:
        state.update(np.ascontiguousarray(logits, "<f4").data)
    return state.hexdigest()


def record_bytes(
    store: Store, part: Part, sums: Mapping[str, Sum], shard_hash: str, pixels: Sequence[str], rows: Sequence[str]
) -> bytes:
    """A commit record with its own checksum, by which a damaged record shows."""
    body = _header(store, part) | {
        "files": {name: {"bytes": size, "xxh3": checksum} for name, (size, checksum) in sums.items()},
        "source": shard_hash,
        "pixels": list(pixels),
        "rows": list(rows),
    }
    return files.canonical_json(body | {"checksum": _checksum(body)})


def _header(store: Store, part: Part) -> dict[str, Any]:
    """The fields of a part's record that do not depend on the teacher's answers."""
    return {
        "format": RECORD_FORMAT,
        "version": RECORD_VERSION,
        "identity": store.hash,
        "part": list(part),
        "samples": store.layout.rows(part[1]),
    }


def _checksum(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(files.canonical_json(body)).hexdigest()


def parse_record(content: bytes, store: Store, part: Part) -> Record:
    """The record of this store and part. Raises IntegrityError, with what differs, if it is damaged or another's."""
    where, shape = store.record_path(part), store.layout
    try:
        body = files.parse_json(content)
        checksum = body.pop("checksum")
        if _checksum(body) != checksum or files.canonical_json(body | {"checksum": checksum}) != content:
            raise ValueError("its checksum does not match its content")
        sums = {str(name): (int(entry["bytes"]), str(entry["xxh3"])) for name, entry in body["files"].items()}
        pixels, rows = tuple(body["pixels"]), tuple(body["rows"])
        header = _header(store, part)
        lengths = [16 * shape.blocks(part[1])] * (2 * shape.group)
        expected = header | {"files": sorted(shape.arrays), "digests": lengths}
        found = {field: body[field] for field in header}
        found |= {"files": sorted(sums), "digests": [len(text) for text in pixels + rows]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{where}: damaged commit record: {error}; {REPAIR}") from None
    for field, value in expected.items():
        if found[field] != value:
            difference = f"{field}: expected {value}, found {found[field]}"
            raise IntegrityError(f"{where}: record of another part: {difference}; {REPAIR}")
    return Record(part, sums, pixels, rows, checksum)


def read_record(store: Store, part: Part) -> Record | None:
    """The record of a part, None if there is none. Raises IntegrityError, also if a receipt pins another record."""
    path = store.record_path(part)
    try:
        record = parse_record(files.read_small(path), store, part)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError):
        raise IntegrityError(f"{path}: expected a commit record, found a directory; {REPAIR}") from None
    if store.pinned is not None and record.checksum != store.pinned[part[0]][part[1]]:
        raise IntegrityError(f"{path}: the part was computed anew after the receipt; write that again: {ANEW}")
    return record


def require_record(store: Store, part: Part) -> Record:
    """The record of a committed part. Raises IntegrityError if there is none or it is damaged."""
    record = read_record(store, part)
    if record is None:
        raise IntegrityError(f"{store.record_path(part)}: no commit record; {REPAIR}")
    return record


def row_digests(store: Store, part: Part, hard: np.ndarray, stored: np.ndarray | None) -> list[str]:
    """Per view the digests of all blocks; one block is unpacked at a time, to save memory."""
    shape, digests = store.layout, []
    for view in range(shape.group):
        line = []
        for block in range(shape.blocks(part[1])):
            rows = slice(block * shape.block, block * shape.block + shape.block_rows(part[1], block))
            logits = None if stored is None else unpack(shape.codec, stored[view, rows], shape.classes)
            line.append(row_digest(store.hash, part, view, block, hard[view, rows], logits))
        digests.append("".join(line))
    return digests


def receipt_bytes(store: Store, views: int, checksums: Sequence[str]) -> bytes:
    """A receipt for V views; ``checksums`` of the records in the order of ``Layout.parts``."""
    shards = store.layout.shards
    body = {
        "format": RECEIPT_FORMAT,
        "version": RECEIPT_VERSION,
        "identity": store.identity,
        "views": views,
        "records": [checksums[first : first + shards] for first in range(0, len(checksums), shards)],
    }
    return files.canonical_json(body | {"sha256": files.digest(body)})


def read_receipt(path: Path) -> tuple[dict[str, Any], int, Pins]:
    """Identity, V and records of the receipt in a published directory. Raises IntegrityError if it is damaged."""
    try:
        body = files.parse_json(files.read_small(path / RECEIPT))
        checksum = body.pop("sha256")
        if files.digest(body) != checksum:
            raise ValueError("its checksum does not match its content")
        if [body["format"], body["version"]] != [RECEIPT_FORMAT, RECEIPT_VERSION]:
            raise ValueError(f"unknown format {body['format']!r} version {body['version']!r}")
        return body["identity"], body["views"], tuple(tuple(row) for row in body["records"])
    except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError) as error:
        raise IntegrityError(f"{path / RECEIPT}: damaged receipt: {error}; write it again: {ANEW}") from None
