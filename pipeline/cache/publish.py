"""Publishes a cache of the work pool as a DVC out: a copy, or above ``publish_max`` a receipt.

Never a hard link: through a shared inode damage would reach DVC's cache, from which ``dvc repro -f`` restores.
"""

from contextlib import suppress
from pathlib import Path

from pipeline.base import difference, files
from pipeline.cache.arrays import ATTRIBUTES, metadata
from pipeline.cache.layout import RECEIPT, Store, committed, file_key, record_key
from pipeline.cache.records import Record, file_sum, receipt_bytes, require_bytes, require_file, require_record
from pipeline.cache.teacher_answers_canary import CANARIES, canaries
from pipeline.runtime.errors import UsageError
from pipeline.runtime.text import few

_MARKS = ("zarr.json", RECEIPT)


def publish(pool: Store, out: Path, views: int, publish_max: int) -> None:
    """Publishes views 0..V-1 as ``out``: a Zarr v3 group, or a receipt if it is bigger than ``publish_max`` bytes.

    Every copied file is compared with its record. ``out`` appears whole, by a rename, and replaces a cache of this identity.
    Raises UsageError (parts missing, G does not divide V, ``out`` is no cache), IdentityError (``out`` is another cache),
    IntegrityError (damaged part), OSError.
    """
    require_same_cache(out, pool)
    parts = list(pool.layout.parts(views))
    missing = set(parts) - committed(pool)
    if missing:
        shown = few([str(part) for part in sorted(missing)], 5)
        raise UsageError(
            f"{pool.path}: {len(missing)} of {len(parts)} parts of V = {views} views are not committed, (group, shard) {shown}; "
            f"run precompute for the rest first"
        )
    records = [require_record(pool, part) for part in parts]
    size = sum(pool.record_path(part).stat().st_size for part in parts)
    size += sum(length for record in records for length, _ in record.files.values())
    with files.whole_directory(out, _MARKS) as fresh:
        if size > publish_max:
            files.write_durably(fresh / RECEIPT, receipt_bytes(pool, views, [record.checksum for record in records]))
        else:
            _copy_cache(pool, fresh, views, records)


def require_same_cache(out: Path, pool: Store) -> None:
    """Raises UsageError or IdentityError if what stands in ``out`` is not a cache of the pool's identity."""
    files.require_own(out, _MARKS)
    with suppress(OSError, ValueError, KeyError, TypeError):  # what cannot be read is damaged, and replaced
        if (out / RECEIPT).exists():
            found = files.parse_json(files.read_small(out / RECEIPT))["identity"]
        else:
            found = files.parse_json(files.read_small(out / "zarr.json"))["attributes"][ATTRIBUTES]["identity"]
        difference.require_same(pool.identity, found, str(out), f"publish elsewhere, or first remove it: rm -r {out}")


def _copy_cache(pool: Store, fresh: Path, views: int, records: list[Record]) -> None:
    for key, document in metadata(pool.identity, pool.layout, views).items():
        (fresh / key).parent.mkdir(parents=True, exist_ok=True)
        (fresh / key).write_bytes(document)
    for record in records:
        files.copy_file(pool.record_path(record.part), fresh / record_key(record.part))
        for array, expected in record.files.items():
            source, copy = pool.file_path(array, record.part), fresh / file_key(array, record.part)
            require_bytes(source, expected[0])
            files.copy_file(source, copy)
            require_file(source, expected, file_sum(copy))
    made_with = canaries(pool.path)
    if made_with:
        (fresh / CANARIES).write_bytes(files.canonical_json(made_with))
    for path in fresh.rglob("*"):  # after all copies, when the kernel has written most of them by itself
        files.fsync(path)
