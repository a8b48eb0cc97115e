"""Reading a teacher cache: blocks of targets, each compared with its digest before it is returned.

Whole blocks are read, never single rows: a zarr call takes about a millisecond.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import difference, files
from pipeline.cache.arrays import ATTRIBUTES, metadata, open_arrays
from pipeline.cache.codec import unpack
from pipeline.cache.layout import (
    RECEIPT,
    Part,
    Store,
    cache_path,
    committed,
    kind_of,
    read_identity,
    recorded,
    staged,
    store_of,
)
from pipeline.cache.records import (
    ANEW,
    RELABEL,
    REPAIR,
    Record,
    read_receipt,
    require_bytes,
    require_record,
    row_digest,
)
from pipeline.data.shards import Block
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.machine import pool_root
from pipeline.views.choose import Targets

_RECORDS_KEPT = 64  # about 20 kB each
_RESTORE = "repair: python -m stages.verify on it says how to restore it"
_REMAKE = "run python -m stages.precompute --cache NAME for this configuration, or give the cache that belongs to it"


class Cache:
    """A teacher cache open for reading; picklable, and cheap to open again in another process. ``views``: V; ``path``: where
    the data lies; ``parts``: the parts that it had when it was opened."""

    def __init__(self, store: Store, views: int, parts: frozenset[Part]) -> None:
        self.path, self.identity, self.hash, self.layout = store.path, store.identity, store.hash, store.layout
        self.store, self.views, self.parts = store, views, parts
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
        """Whether the cache holds this view of this block. A damaged part counts, and reading it raises."""
        return 0 <= view < self.views and (view // self.layout.group, block.shard) in self.parts

    def missing(self, views: int) -> list[Part]:
        """The parts (g, s) that hold any of views 0..K-1 and are not committed."""
        group = self.layout.group
        whole = -(-views // group) * group
        return [
            part for part in self.layout.parts(whole) if part not in self.parts or (part[0] + 1) * group > self.views
        ]

    def records_hash(self, views: int) -> str:
        """Hash of the records, and so of the rows, of views 0..K-1 that the cache has. Raises IntegrityError."""
        parts = sorted(part for part in self.parts if part[0] * self.layout.group < views)
        pinned = self.store.pinned
        return files.digest([pinned[g][s] if pinned else self.record((g, s)).checksum for g, s in parts])

    def read(self, block: Block, first_view: int, views: int = 1) -> Targets:
        """Targets of views first_view..first_view+r-1 of a block: hard uint16 (r, n), logits float32 (r, n, C).

        Raises UsageError for what the cache does not hold, IntegrityError that names part, view and block for what is
        damaged.
        """
        self._check(block, first_view, views)
        group, stop = self.layout.group, first_view + views
        pieces = [
            self._proven(block, max(first_view, start), min(stop, start + group))
            for start in range(first_view // group * group, stop, group)
        ]
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

    def require_pixels(self, block: Block, view: int, found: str, shard: str) -> None:
        """Raises IntegrityError unless ``found`` is the digest of the pixels that the teacher saw; ``shard``: its name."""
        expected = self.pixel_digest(block, view)
        if found != expected:
            raise IntegrityError(
                f"shard {shard}, block {block.index}, view {view}: other pixels than the teacher saw (xxh3_64 {found}, "
                f"{self.path} has {expected}): the image library has changed since; use the one that made this cache "
                f"(log.jsonl in the work pool names it), or {RELABEL}"
            )

    def record(self, part: Part) -> Record:
        """The commit record of a part; the last ones used stay parsed. Raises UsageError, IntegrityError."""
        if part not in self.parts:
            raise UsageError(f"{self.path}: part {part} is not committed; run precompute")
        if part not in self._records:
            record = require_record(self.store, part)
            for array, (size, _) in record.files.items():
                require_bytes(self.store.file_path(array, part), size)
            if len(self._records) >= _RECORDS_KEPT:
                self._records.pop(next(iter(self._records)))
            self._records[part] = record
        return self._records[part]

    def _proven(self, block: Block, first: int, stop: int) -> Targets:
        """The rows of views first..stop-1, which lie in one part, once their digests match."""
        part = (first // self.layout.group, block.shard)
        record = self.record(part)
        try:
            return self._rows(record, block, first, stop)
        except IntegrityError:
            # A repair may have replaced the part since its record was read: then all rows come from the new one.
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
        logits = None if self.layout.codec == "none" else self._read("logits", record.part, selection, where)
        for index in range(stop - first):
            view = first % self.layout.group + index
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
        if not self._arrays:
            self._arrays = open_arrays(self.path, self.identity, self.layout, self.views, read_only=True)
        try:
            rows = np.asarray(self._arrays[array][selection])
            return rows if array == "hard" else unpack(self.layout.codec, rows, self.layout.classes)
        except (
            IntegrityError,
            ValueError,
            RuntimeError,
            IndexError,
            KeyError,
            TypeError,
        ) as error:  # zarr's codecs', ours
            path = self.store.file_path(array, part)
            reason = str(error).split(". Stored", 1)[0]  # zarr shows the bytes of both checksums
            raise IntegrityError(f"{path}: damaged in {where}: {reason}; {REPAIR}") from error

    def _check(self, block: Block, first_view: int, views: int) -> None:
        shape = self.layout
        if not 0 <= block.shard < shape.shards or block != self.block(block.index):
            raise UsageError(f"{self.path}: {block} is no block of the cache's layout {shape}")
        if views < 1 or first_view < 0 or first_view + views > self.views:
            raise UsageError(f"{self.path}: holds views 0..{self.views - 1}, asked for {views} from {first_view} on")


def open_cache(
    path: Path, identity: Mapping[str, Any] | None = None, views: int | None = None, pool: Path | None = None
) -> Cache:
    """Opens a published cache, a receipt, or a cache's directory in a pool, by listing names only.

    ``identity``: the one that the cache must have; ``views``: V, at most what the cache has (default: all); ``pool``: root of
    the work pool for a receipt (default DISTIL_POOL). A published cache and a receipt must be complete; a cache in a pool may
    lack parts (``Cache.missing``). Raises UsageError, IdentityError with each field and both values, IntegrityError.
    """
    store = find_store(path, pool)
    if identity is not None:
        difference.require_same(identity, store.identity, str(path), _REMAKE)
    if views is not None and store.views is not None and views > store.views:
        raise UsageError(f"{path}: the cache holds V = {store.views} views, asked for {views}; {_REMAKE}")
    there = committed(store)
    grown = store.layout.group * (1 + max((g for g, _ in there), default=0))
    held = views or store.views or grown
    expected = set(store.layout.parts(held))
    lacking = expected - there
    if store.views is None:
        there |= _broken(store, there)
    elif lacking:
        paths = store.paths(min(lacking))
        gone = next((file for file in paths if not file.is_file()), paths[-1])
        raise IntegrityError(
            f"{path}: {len(lacking)} of {len(expected)} parts are not whole, first {gone}: no such file; {REPAIR}"
        )
    return Cache(store, held, frozenset(there & expected))


def find_store(path: Path, pool: Path | None) -> Store:
    """The published cache, the pool's cache of a receipt, or the cache in a pool that ``path`` is. Raises UsageError,
    IntegrityError, IdentityError."""
    kind = kind_of(path)
    if kind == "receipt":
        identity, views, records = read_receipt(path)
        place = cache_path(pool or pool_root(), files.digest(identity))
        if not place.is_dir():
            raise UsageError(
                f"{path / RECEIPT}: the pool has no {place}; set DISTIL_POOL to the pool that has it, or run {ANEW}"
            )
        difference.require_same(identity, read_identity(place), str(place), _REMAKE)
        return store_of(place, identity, views, records)
    if kind == "published":
        return _published(path)
    if kind == "pool":
        return store_of(path, read_identity(path))
    raise UsageError(f"{path}: no teacher cache (no zarr.json, receipt.json or identity.json); {_REMAKE}")


def _published(path: Path) -> Store:
    """A published cache. Raises IntegrityError unless its metadata are those of its identity and V, byte for byte."""
    try:
        attributes = files.parse_json(files.read_small(path / "zarr.json"))["attributes"][ATTRIBUTES]
        store = store_of(path, attributes["identity"], attributes["views"])
        expected = metadata(store.identity, store.layout, attributes["views"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path / 'zarr.json'}: not a teacher cache's metadata: {error!r}; {_RESTORE}") from None
    for key, document in expected.items():
        try:
            found = files.read_small(path / key)
        except OSError as error:
            raise IntegrityError(f"{path / key}: {error.strerror}; {_RESTORE}") from None
        if found != document:
            where = next((i for i, (a, b) in enumerate(zip(document, found)) if a != b), min(len(found), len(document)))
            raise IntegrityError(
                f"{path / key}: edited or damaged at byte {where}: expected {document[where : where + 20]!r}, "
                f"found {found[where : where + 20]!r}; {_RESTORE}"
            )
    return store


def _broken(store: Store, there: set[Part]) -> set[Part]:
    """Parts of a pool with a record, without all files, and without a staging directory that may hold them. They count as
    present, so that reading them raises: a damaged part is never mistaken for one that is not made yet."""
    lacking = recorded(store.path) - there
    # Listed again at the end, since a part may have been rolled forward meanwhile.
    return lacking - set(staged(store.path).values()) - committed(store) if lacking else lacking
