"""The shard format and its reader; ``pack`` writes it.

A split is ``manifest.json`` (classes, counts, per shard its size and hashes), plain WebDataset tars of S samples (fewer in
the last), and ``index/<shard>.npz``. Every read is verified: the manifest holds the sha256 of each index, the index a crc32c
of each sample's bytes in the tar (headers, label, image, padding). So no damaged, cut, swapped or rewritten tar yields a
sample. A block is one contiguous read. The tars of a split may lie in an object store.
"""

import functools
import hashlib
import io
import itertools
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.base import files
from pipeline.base.sums import require_unchanged
from pipeline.data import object_store
from pipeline.data.images import Rule
from pipeline.data.manifest import REPAIR, Manifest, ShardRecord, index_path, read_manifest
from pipeline.runtime.errors import IntegrityError, UsageError, first_line

INDEX_DTYPES = {"keys": "S", "kinds": "S4", "labels": "<i4", "offsets": "<i8", "sizes": "<i8", "checksums": "<u4"}
_KEPT_INDICES = 16  # about 50 kB each for 1,024 samples
UNKNOWN = -1  # the label of a sample whose label a training may not see


@dataclass(frozen=True)
class Block:
    """``samples`` consecutive samples of one shard."""

    index: int  # of the block over the split
    shard: int
    first: int  # row inside the shard of the block's first sample
    row: int  # the same row over the split
    samples: int


@dataclass(frozen=True)
class Sample:
    key: str
    label: int
    data: bytes


class Shards:
    """The reader of one split. Holds no open file, so it can be pickled to loader processes and forked.

    ``labelled`` bool (N,): which samples have their label; the others have ``UNKNOWN``. ``only``: blocks hold the labelled
    samples alone, at most b each and equally many but for one, and each sample is a read of its own.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        manifest_hash: str,
        labelled: np.ndarray | None = None,
        only: bool = False,
    ) -> None:
        self.root, self.manifest, self.manifest_hash = root, manifest, manifest_hash
        self.labelled, self.only, self.origin = labelled, only, object_store.origin(root)
        self._index = functools.lru_cache(_KEPT_INDICES)(self._read_index)

    def __reduce__(self) -> tuple[type["Shards"], tuple[object, ...]]:
        # The indices are read again.
        return Shards, (self.root, self.manifest, self.manifest_hash, self.labelled, self.only)

    @classmethod
    def open(cls, root: Path) -> "Shards":
        """The split in ``root``. Raises UsageError where there is none, IntegrityError if it is damaged."""
        path = root / "manifest.json"
        require_unchanged(path)
        try:
            content = files.read_small(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"{path}: {error.strerror}; write the shards with: python -m stages.shard") from None
        return cls(root, read_manifest(content, path), hashlib.sha256(content).hexdigest())

    def with_labels(self, labelled: np.ndarray, only: bool) -> "Shards":
        """The same split with the labels of ``labelled`` alone, or (``only``) with those samples alone."""
        return Shards(self.root, self.manifest, self.manifest_hash, labelled, only)

    @property
    def samples(self) -> int:
        """N, or how many samples are labelled where ``only`` they are read."""
        return int(self.labelled.sum()) if self.only and self.labelled is not None else self.manifest.samples

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order (C,)."""
        return self.manifest.classes

    @property
    def shard_size(self) -> int:
        """S."""
        return self.manifest.shard_size

    @property
    def block_size(self) -> int:
        """b."""
        return self.manifest.block

    @property
    def rule(self) -> Rule:
        """How the samples are decoded."""
        return Rule(self.manifest.orientation, self.manifest.max_pixels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(record.name for record in self.manifest.shards)

    @property
    def hashes(self) -> tuple[str, ...]:
        """sha256 of each tar, in order."""
        return tuple(record.sha256 for record in self.manifest.shards)

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Every block of the split, in order; the last one of the last shard may be short and odd. ``row``, ``shard`` and
        ``first`` of a block of labelled samples are those of its first sample."""
        if self.only:
            return tuple(self._block(index, int(rows[0]), len(rows)) for index, rows in enumerate(self._labelled_rows))
        numbers = itertools.count()
        return tuple(
            self._block(next(numbers), shard * self.shard_size + first, min(self.block_size, samples - first))
            for shard, samples in enumerate(record.samples for record in self.manifest.shards)
            for first in range(0, samples, self.block_size)
        )

    def _block(self, index: int, row: int, samples: int) -> Block:
        return Block(index, *divmod(row, self.shard_size), row, samples)

    @functools.cached_property
    def _labelled_rows(self) -> list[np.ndarray]:
        """The rows over the split of each block of labelled samples."""
        assert self.labelled is not None, "with_labels gives both"
        rows = np.flatnonzero(self.labelled)
        return np.array_split(rows, max(1, -(-len(rows) // self.block_size)))

    def read(self, block: Block) -> list[Sample]:
        """The block's samples, by one contiguous read. Raises IntegrityError (damage), RetryError (shards replaced)."""
        with files.retry_if_replaced(self.origin or str(self.root), self.manifest_hash, self._current_hash):
            if self.only:
                return [self._read(self._block(0, int(row), 1))[0] for row in self._labelled_rows[block.index]]
            return self._read(block)

    def _current_hash(self) -> str:
        """The manifest's, where it was opened."""
        if self.origin is not None:
            return object_store.current_hash(f"{self.origin}/manifest.json")
        return files.sha256_file(self.root / "manifest.json")

    def _read(self, block: Block) -> list[Sample]:
        index, record = self._index(block.shard), self.manifest.shards[block.shard]
        path = f"{self.origin or self.root}/{record.name}"
        ends = index["offsets"] + (index["sizes"] + 511) // 512 * 512
        rows = range(block.first, block.first + block.samples)
        start = 0 if block.first == 0 else int(ends[rows[0] - 1])
        read = _read_range if self.origin is None else object_store.read_range
        data = read(path, record.bytes, start, int(ends[rows[-1]]) - start)
        at, samples, whole = 0, list[Sample](), np.frombuffer(data, np.uint8)  # slices of an array are no copies
        for row in rows:
            end, offset, size = int(ends[row]) - start, int(index["offsets"][row]) - start, int(index["sizes"][row])
            key = index["keys"][row].decode("ascii")
            if google_crc32c.value(whole[at:end]) != index["checksums"][row]:
                raise IntegrityError(f"{path}: sample {key!r} (row {row}): its bytes have changed; {REPAIR}")
            known = self.labelled is None or self.labelled[block.row + row - block.first]
            label = int(index["labels"][row]) if known else UNKNOWN
            samples.append(Sample(key, label, data[offset : offset + size]))
            at = end
        return samples

    def labels(self, block: Block) -> np.ndarray:
        """The true labels int64 (n,) of a block of consecutive samples, without reading the tar."""
        return self._index(block.shard)["labels"][block.first : block.first + block.samples].astype(np.int64)

    def keys(self, block: Block) -> list[str]:
        """Keys of the block's samples, without reading the tar."""
        keys = self._index(block.shard)["keys"][block.first : block.first + block.samples]
        return [key.decode("ascii") for key in keys]

    def _read_index(self, shard: int) -> dict[str, np.ndarray]:
        record = self.manifest.shards[shard]
        path = index_path(self.root, record.name)
        try:
            content = files.read_small(path)
        except OSError as error:
            raise IntegrityError(f"{path}: {error.strerror}; {REPAIR}") from None
        if (found := hashlib.sha256(content).hexdigest()) != record.index_sha256:
            raise IntegrityError(f"{path}: sha256 is {found}, the manifest says {record.index_sha256}; {REPAIR}")
        try:
            return _parse_index(content, record, len(self.classes))
        except Exception as error:  # numpy and zipfile fail in many ways on bytes that are no .npz
            raise IntegrityError(f"{path}: not the index of {record.name}: {first_line(error)}; {REPAIR}") from None


def _parse_index(content: bytes, record: ShardRecord, classes: int) -> dict[str, np.ndarray]:
    """The columns of an index. Raises ValueError for another type, length or range, and whatever numpy raises."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # columns are stored: nothing may unpack to more
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise ValueError("its columns claim more bytes than it has")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        index = {name: arrays[name] for name in INDEX_DTYPES}
    for name, column in index.items():
        wanted = np.dtype(INDEX_DTYPES[name])
        if column.shape != (record.samples,) or (
            column.dtype != wanted and not (wanted == "S" and column.dtype.kind == "S")
        ):
            raise ValueError(f"column {name} is {column.dtype} {column.shape}, expected {wanted} ({record.samples},)")
    starts, ends = index["offsets"], index["offsets"] + index["sizes"]
    if (
        (index["sizes"] < 0).any()
        or (starts < 512).any()
        or (ends > record.bytes).any()
        or (starts[1:] < ends[:-1]).any()
    ):
        raise ValueError("an image lies outside the tar or inside another")
    if (index["labels"] < 0).any() or (index["labels"] >= classes).any():
        raise ValueError(f"a label is outside 0..{classes - 1}")
    return index


def _read_range(path: str, expected: int, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` of a file of ``expected`` bytes."""
    try:
        files.require_regular(Path(path))  # a pipe would be waited for
        with Path(path).open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            file.seek(start)
            data = file.read(length)
    except OSError as error:
        raise IntegrityError(f"{path}: {error.strerror}; {REPAIR}") from None
    if found != expected:
        raise IntegrityError(f"{path}: {found} bytes, the manifest says {expected}; {REPAIR}")
    if len(data) != length:
        raise IntegrityError(f"{path}: ends at byte {start + len(data)}, before byte {start + length}; {REPAIR}")
    return data
