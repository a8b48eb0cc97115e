"""Reading a teacher cache: blocks of targets, each proven by its digest before it is returned (layer L1).

Blocks and never rows: a zarr call costs about a millisecond, so a reader of single rows spends its time there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import difference, files, layout, runtime, targets
from pipeline.layout import Layout, Part
from pipeline.record import (
    ANEW,
    RECEIPT,
    REPAIR,
    Record,
    cache_path,
    check_size,
    listed,
    read_identity,
    read_receipt,
    read_record,
    recorded,
    row_digest,
    staging_directories,
)
from pipeline.runtime import IntegrityError, UsageError
from pipeline.shards import Block
from pipeline.targets import Targets

_RECORDS_KEPT = 64  # about 20 kB each
_RESTORE = "repair: python -m stages.verify on it says how to restore it"
_REMAKE = "run python -m stages.precompute for this configuration, or give the cache that belongs to it"


class Cache:
    """A teacher cache open for reading; picklable, and cheap to open again in another process.

    ``views``: V; ``layout``; ``identity``; ``path``: where the data lies. Which parts there are is what there was when
    it was opened.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        views: int,
        parts: frozenset[Part],
        pinned: tuple[tuple[str, ...], ...] | None,
    ) -> None:
        self.path, self.identity, self.views = path, identity, views
        self.layout = layout.of_identity(identity, str(path))
        self.hash = files.digest(identity)
        self.parts = parts
        self._pinned = pinned  # checksums of the records that a receipt names
        self._records: dict[Part, Record] = {}
        self._arrays: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": {}, "_arrays": {}}

    def block(self, index: int) -> Block:
        """Block ``index`` of the split, as the layout makes it."""
        shard, number = divmod(index, self.layout.shard_size // self.layout.block)
        first = number * self.layout.block
        row = shard * self.layout.shard_size + first
        return Block(index, shard, first, row, self.layout.block_rows(shard, number))

    def has(self, block: Block, view: int) -> bool:
        """Whether the cache holds this view of this block; a damaged one counts, and reading it raises."""
        return 0 <= view < self.views and (view // self.layout.group, block.shard) in self.parts

    def missing(self, views: int) -> list[Part]:
        """The parts (g, s) that hold any of views 0..K-1 and are not committed."""
        groups = -(-views // self.layout.group)
        return [
            (g, s)
            for g in range(groups)
            for s in range(self.layout.shards)
            if (g, s) not in self.parts or (g + 1) * self.layout.group > self.views
        ]

    def records_hash(self, views: int) -> str:
        """Hash of the records, and so of the rows, of what is there of views 0..K-1. Raises IntegrityError."""
        parts = sorted(part for part in self.parts if part[0] * self.layout.group < views)
        return files.digest([self._pinned[g][s] if self._pinned else self.record((g, s)).checksum for g, s in parts])

    def read(self, block: Block, first_view: int, views: int = 1) -> Targets:
        """Targets of views first_view..first_view+r-1 of a block: hard uint16 (r, n), logits float32 (r, n, C).

        Raises UsageError for what the cache does not hold, IntegrityError that names part, view and block for what is
        damaged.
        """
        self._check(block, first_view, views)
        group, end = self.layout.group, first_view + views
        pieces = []
        while first_view < end:
            stop = min(end, (first_view // group + 1) * group)
            pieces.append(self._proven(block, first_view, stop))
            first_view = stop
        if len(pieces) == 1:
            return pieces[0]
        hard = np.concatenate([piece.hard for piece in pieces])
        logits = [piece.logits for piece in pieces if piece.logits is not None]
        return Targets(hard, np.concatenate(logits) if logits else None)

    def pixel_digest(self, block: Block, view: int) -> str:
        """xxh3_64 of the uint8 pixels that the teacher saw, 16 hex digits. Raises as ``read`` does."""
        self._check(block, view, 1)
        record = self.record((view // self.layout.group, block.shard))
        return record.pixel_digest(view % self.layout.group, block.first // self.layout.block)

    def record(self, part: Part) -> Record:
        """The commit record of a part, parsed once while it is in use. Raises IntegrityError."""
        kept = self._records.get(part)
        if kept is not None:
            return kept
        record = self._load(part)
        while len(self._records) >= _RECORDS_KEPT:
            self._records.pop(next(iter(self._records)), None)
        self._records[part] = record
        return record

    def _load(self, part: Part) -> Record:
        where = self.path / layout.record_key(part)
        record = read_record(self.path, self.hash, self.layout, part)
        if record is None:
            raise IntegrityError(f"{where}: no commit record; {REPAIR}")
        if self._pinned is not None and record.checksum != self._pinned[part[0]][part[1]]:
            raise IntegrityError(f"{where}: the part was computed anew after the receipt; run precompute again")
        for array, (size, _) in record.files.items():
            check_size(self.path / layout.file_key(array, part), size)
        return record

    def _proven(self, block: Block, first: int, stop: int) -> Targets:
        """The rows of views first..stop-1, which lie in one part, after their digests matched."""
        part = (first // self.layout.group, block.shard)
        record = self.record(part)
        try:
            return self._rows(record, block, first, stop)
        except IntegrityError:
            # A repair may have replaced the part since the record was read: old or new, never a mixture.
            self._records.pop(part, None)
            now = self.record(part)
            if now == record:
                raise
            return self._rows(now, block, first, stop)

    def _rows(self, record: Record, block: Block, first: int, stop: int) -> Targets:
        row = block.shard * self.layout.shard_size + block.first
        selection = (slice(first, stop), slice(row, row + block.samples))
        number = block.first // self.layout.block
        where = f"views {first}..{stop - 1}, block {number} of the shard"
        hard = self._read("hard", record.part, selection, where)
        logits = None
        if self.layout.codec != "none":
            logits = targets.decode(self.layout.codec, self._read("logits", record.part, selection, where))
        for index, view in enumerate(range(first % self.layout.group, first % self.layout.group + stop - first)):
            rows = None if logits is None else logits[index]
            found = row_digest(self.hash, record.part, view, number, hard[index], rows)
            expected = record.row_digest(view, number)
            if found != expected:
                raise IntegrityError(
                    f"{self.path}: part {record.part}, view {first + index}, block {number} of the shard: "
                    f"rows have digest {found}, the commit record says {expected}; {REPAIR}"
                )
        return Targets(hard, logits)

    def _read(self, array: str, part: Part, selection: tuple[slice, slice], where: str) -> np.ndarray:
        if array not in self._arrays:
            documents = layout.metadata(self.identity, self.layout, self.views)
            store = layout.CacheStore(self.path, documents, read_only=True)
            self._arrays[array] = layout.open_array(store, array)
        try:
            return np.asarray(self._arrays[array][selection])
        except (ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:  # what zarr's codecs raise
            path = self.path / layout.file_key(array, part)
            reason = str(error).split(". Stored", 1)[0]  # zarr shows the bytes of both checksums
            raise IntegrityError(f"{path}: damaged in {where}: {reason}; {REPAIR}") from error

    def _check(self, block: Block, first_view: int, views: int) -> None:
        shape = self.layout
        if not 0 <= block.shard < shape.shards or block != self.block(block.index):
            raise UsageError(f"{self.path}: {block} is no block of the cache's layout {shape}")
        if views < 1 or first_view < 0 or first_view + views > self.views:
            raise UsageError(f"{self.path}: holds views 0..{self.views - 1}, asked for {views} from {first_view} on")
        for group in range(first_view // shape.group, (first_view + views - 1) // shape.group + 1):
            if (group, block.shard) not in self.parts:
                raise UsageError(f"{self.path}: part {(group, block.shard)} is not committed; run precompute")


def open_cache(
    path: Path,
    identity: Mapping[str, Any] | None = None,
    views: int | None = None,
    pool: Path | None = None,
) -> Cache:
    """Opens a published cache, a receipt, or a cache's directory in a pool, by listing names only.

    ``identity``: what the reader needs; ``views``: V, at most what there is (default: all of it); ``pool``: root of the
    work pool for a receipt (default DISTIL_POOL). A published cache and a receipt are complete; a cache in a pool may
    lack parts (``Cache.missing``). Raises UsageError, IdentityError with each field and both values, IntegrityError.
    """
    source = find_source(path, pool)
    if identity is not None:
        wanted = json.loads(files.canonical_json(identity))
        difference.require_same(wanted, source.identity, str(path), _REMAKE)
    shape = layout.of_identity(source.identity, str(path))
    there = listed(source.path, shape)
    if views is not None and source.views is not None and views > source.views:
        raise UsageError(f"{path}: the cache holds V = {source.views} views, asked for {views}; {_REMAKE}")
    grown = shape.group * (1 + max((g for g, _ in there), default=0))
    held = views or source.views or grown
    expected = set(shape.parts(held))
    if source.views is None:
        there |= _broken(source.path, shape, there)
    elif not expected <= there:
        part = min(expected - there)
        names = [layout.record_key(part), *(layout.file_key(array, part) for array in shape.arrays)]
        gone = next((name for name in names if not (source.path / name).is_file()), names[0])
        count = len(expected - there)
        raise IntegrityError(
            f"{path}: {count} of {len(expected)} parts are not whole, first {source.path / gone}: no such file; {REPAIR}"
        )
    return Cache(source.path, source.identity, held, frozenset(there & expected), source.pinned)


@dataclass(frozen=True)
class Source:
    """Where a cache's data lies; ``views`` is None for a cache in a pool, which need not be complete."""

    path: Path
    identity: dict[str, Any]
    views: int | None
    pinned: tuple[tuple[str, ...], ...] | None = None


def find_source(path: Path, pool: Path | None) -> Source:
    """What ``path`` is, with its identity. Raises UsageError, IntegrityError, IdentityError."""
    if (path / RECEIPT).exists():
        receipt = read_receipt(path)
        place = cache_path(pool or runtime.pool_root(), files.digest(receipt.identity))
        if not place.is_dir():
            raise UsageError(
                f"{path / RECEIPT}: the pool has no {place}; set DISTIL_POOL to the pool that has it, or run {ANEW}"
            )
        difference.require_same(receipt.identity, read_identity(place), str(place), _REMAKE)
        return Source(place, receipt.identity, receipt.views, receipt.records)
    if (path / "zarr.json").exists():
        identity, views = read_published(path)
        return Source(path, identity, views)
    if (path / "identity.json").exists():
        return Source(path, read_identity(path), None)
    raise UsageError(f"{path}: no teacher cache (no zarr.json, receipt.json or identity.json); {_REMAKE}")


def read_published(path: Path) -> tuple[dict[str, Any], int]:
    """Identity and V of a published cache, whose metadata must be what they make it, byte for byte.

    Raises IntegrityError.
    """
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"][layout.ATTRIBUTES]
        identity, views = attributes["identity"], attributes["views"]
        expected = layout.metadata(identity, layout.of_identity(identity, str(path)), views)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path / 'zarr.json'}: not a teacher cache's metadata: {error!r}; {_RESTORE}") from None
    for key, document in expected.items():
        try:
            found = (path / key).read_bytes()
        except OSError as error:
            raise IntegrityError(f"{path / key}: {error.strerror}; {_RESTORE}") from None
        if found != document:
            where = next((i for i, (a, b) in enumerate(zip(document, found)) if a != b), min(len(found), len(document)))
            raise IntegrityError(
                f"{path / key}: edited or damaged at byte {where}: expected {document[where : where + 20]!r}, "
                f"found {found[where : where + 20]!r}; {_RESTORE}"
            )
    return identity, views


def _broken(cache: Path, shape: Layout, there: set[Part]) -> set[Part]:
    """Parts of a pool that have a record but not all files, and no staging from which they are coming.

    They count as present, so that reading them raises: damage is never taken for a part still to be made.
    """
    lacking = recorded(cache) - there
    if not lacking:
        return set()
    lacking -= {part for _, part in staging_directories(cache)}
    return lacking - listed(cache, shape)  # rolled forward between the two listings
