"""From the work pool into a DVC out: a copy, or above ``publish_max`` a receipt (layer L1).

A copy and never a hard link: a shared inode spreads damage into DVC's cache, and ``dvc repro -f`` restores it.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import difference, files, layout
from pipeline.pool import Pool, committed, record_of
from pipeline.record import RECEIPT, RECEIPT_FORMAT, RECEIPT_VERSION, REPAIR, Record, checksum_file
from pipeline.runtime import IntegrityError, UsageError

_MARKS = ("zarr.json", RECEIPT)


@dataclass(frozen=True)
class Publication:
    out: Path
    views: int
    parts: int
    bytes: int  # of the arrays and records, wherever they lie
    receipt: bool


def publish(
    pool: Pool, out: Path, views: int, publish_max: int, tick: Callable[[], object] = lambda: None
) -> Publication:
    """Publishes views 0..V-1 as ``out``: a Zarr v3 group, or a receipt if it is bigger than ``publish_max`` bytes.

    Every copied file is checked against its record. ``out`` appears whole, by a rename; what stood there is replaced if
    it is a cache of this identity. Raises UsageError (parts missing, G does not divide V, something else stands in
    ``out``), IdentityError (another cache does), IntegrityError (damaged part), OSError.
    """
    refuse_other(out, pool)
    parts = list(pool.layout.parts(views))
    missing = set(parts) - committed(pool)
    if missing:
        shown = ", ".join(str(part) for part in sorted(missing)[:5])
        raise UsageError(
            f"{pool.path}: {len(missing)} of {len(parts)} parts of V = {views} views are not committed, "
            f"(group, shard) {shown}{' ...' if len(missing) > 5 else ''}; run precompute for the rest first"
        )
    records = [record_of(pool, part) for part in parts]
    data = sum(size for record in records for size, _ in record.files.values())
    data += sum((pool.path / layout.record_key(part)).stat().st_size for part in parts)
    with files.whole_directory(out, _MARKS) as fresh:
        if data > publish_max:
            files.write_durably(fresh / RECEIPT, _receipt(pool, views, records))
        else:
            _copy_cache(pool, fresh, views, records, tick)
    return Publication(out, views, len(parts), data, data > publish_max)


def refuse_other(out: Path, pool: Pool) -> None:
    """Raises UsageError or IdentityError if what stands in ``out`` is not a cache of the pool's identity."""
    files.refuse_foreign(out, _MARKS)
    with suppress(OSError, ValueError, KeyError, TypeError):  # what cannot be read is damaged, and replaced
        if (out / RECEIPT).exists():
            found = json.loads((out / RECEIPT).read_bytes())["identity"]
        else:
            found = json.loads((out / "zarr.json").read_bytes())["attributes"][layout.ATTRIBUTES]["identity"]
        difference.require_same(pool.identity, found, str(out), f"publish elsewhere, or first remove it: rm -r {out}")


def _receipt(pool: Pool, views: int, records: list[Record]) -> bytes:
    shards = pool.layout.shards
    checksums = [record.checksum for record in records]
    body = {
        "format": RECEIPT_FORMAT,
        "version": RECEIPT_VERSION,
        "identity": pool.identity,
        "views": views,
        "records": [checksums[first : first + shards] for first in range(0, len(checksums), shards)],
    }
    return files.canonical_json(body | {"sha256": files.digest(body)})


def _copy_cache(pool: Pool, fresh: Path, views: int, records: list[Record], tick: Callable[[], object]) -> None:
    for key, document in layout.metadata(pool.identity, pool.layout, views).items():
        (fresh / key).parent.mkdir(parents=True, exist_ok=True)
        (fresh / key).write_bytes(document)
    for record in records:
        _copy(pool.path, fresh, layout.record_key(record.part))
        for array, (size, checksum) in record.files.items():
            copied = _copy(pool.path, fresh, layout.file_key(array, record.part))
            found = (copied.stat().st_size, checksum_file(copied))
            if found != (size, checksum):
                source = pool.path / layout.file_key(array, record.part)
                raise IntegrityError(
                    f"{source}: expected {size} bytes, xxh3 {checksum}, found {found[0]} bytes, {found[1]}; {REPAIR}"
                )
        tick()
    for path in fresh.rglob("*"):  # after all copies, when the kernel has written most of them by itself
        files.fsync_file(path)


def _copy(source: Path, target: Path, key: str) -> Path:
    """Copies one file; the kernel shares the blocks (reflink) where the file system can."""
    copy = target / key
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (source / key).open("rb") as reader, copy.open("wb") as writer:
        with suppress(OSError):  # not supported between these two: the loop below copies all of it
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        reader.seek(writer.seek(0, os.SEEK_END))
        shutil.copyfileobj(reader, writer, 1 << 20)
    return copy
