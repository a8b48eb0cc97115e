"""The rows of a part, and the zarr arrays of a teacher cache: their metadata, and a store that trusts none on disk.

The metadata is a function of (identity, V) and is served to zarr from memory; on disk it is there for other readers,
and a published cache whose ``zarr.json`` differs from the function by one byte is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from pipeline.base import files
from pipeline.cache.codec import hard_labels, pack, packed_dtype, packed_width
from pipeline.cache.layout import Layout, Part
from pipeline.data import object_store
from pipeline.data.shards import Block
from pipeline.runtime.errors import UsageError

FORMAT = "offline-deit teacher cache"
FORMAT_VERSION = 1
ATTRIBUTES = "offline_deit"  # key of our attributes in the group's zarr.json


def metadata(identity: Mapping[str, Any], layout: Layout, views: int) -> dict[str, bytes]:
    """The bytes of every ``zarr.json`` of a cache of V views, by key.

    hard: uint16 (V, N), chunk (G, S), sample-major inside the chunk (equal labels of a sample then lie side by side, which
    saves 17 %), zstd and crc32c. logits: (V, N, W), Zarr shard (G, S, W), inner chunk (1, b, W), crc32c, no compression:
    dense logits don't compress, and zstd would save 3 to 19 % of topK's rows. The group has Zarr's consolidated metadata,
    so that other readers need not list the directory, where the commit records would confuse them.
    """
    shape = (views, layout.samples)
    chunk = (layout.group, layout.shard_size)
    bytes_codec: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    crc: dict[str, Any] = {"name": "crc32c"}
    # Hard labels, sample-major inside the chunk.
    hard_codecs: list[dict[str, Any]] = [
        {"name": "transpose", "configuration": {"order": [1, 0]}},
        bytes_codec,
        {"name": "zstd", "configuration": {"level": 9, "checksum": False}},
        crc,
    ]
    arrays = {"hard": _array(shape, chunk, "uint16", 65535, hard_codecs, ["view", "sample"])}
    if layout.codec != "none":
        width = packed_width(layout.codec, layout.classes)
        single_byte = packed_dtype(layout.codec) == np.uint8
        sharding = {
            "chunk_shape": [1, layout.block, width],
            "codecs": [{"name": "bytes"} if single_byte else bytes_codec, crc],
            "index_codecs": [bytes_codec, crc],
            "index_location": "end",
        }
        arrays["logits"] = _array(
            (*shape, width),
            (*chunk, width),
            "uint8" if single_byte else "float16",
            255 if single_byte else "NaN",  # a row of 255 would have a scale of NaN: none is written
            [{"name": "sharding_indexed", "configuration": sharding}],
            ["view", "sample", "byte" if single_byte else "class"],
        )
    # What the group says of itself, for this reader and for others.
    ours = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "views": views,
        "identity": identity,
        "identity_sha256": files.digest(identity),
    }
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {ATTRIBUTES: ours},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    documents = {"zarr.json": group} | {f"{name}/zarr.json": array for name, array in arrays.items()}
    return {key: files.canonical_json(value) for key, value in documents.items()}


def _array(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    fill: int | str,
    codecs: list[dict[str, Any]],
    names: list[str],
) -> dict[str, Any]:
    # A key with dots is one file per part of logits. With slashes each part would be a folder, which exists before its file
    # does, so that a listing of names could not tell which parts are there.
    separator = "." if len(shape) == 3 else "/"
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": names,
        "storage_transformers": [],
    }


@dataclass(frozen=True)
class PartRows:
    """A teacher's answers on a part of n samples: hard uint16 (G, n), packed (G, n, W) by ``codec.pack`` (None for codec
    none), pixels (G, blocks) of 16 hex digits; shard_hash: sha256 of the part's shard."""

    part: Part
    hard: np.ndarray
    packed: np.ndarray | None
    pixels: np.ndarray | Sequence[Sequence[str]]
    shard_hash: str

    @classmethod
    def empty(cls, shape: Layout, part: Part, shard_hash: str) -> "PartRows":
        """Room for the answers on a part, which ``put`` writes."""
        hard = np.zeros((shape.group, shape.rows(part[1])), np.uint16)
        dtype, width = packed_dtype(shape.codec), packed_width(shape.codec, shape.classes)
        packed = None if dtype is None else np.zeros((*hard.shape, width), dtype)
        return cls(part, hard, packed, np.zeros((shape.group, shape.blocks(part[1])), "U16"), shard_hash)

    def put(self, shape: Layout, block: Block, first_view: int, logits: np.ndarray, digests: Sequence[str]) -> None:
        """Writes the answers ``logits`` (r, n, C) float32 on a visit of this part, and the ``digests`` of its views."""
        first = first_view - self.part[0] * shape.group
        views, rows = slice(first, first + len(logits)), slice(block.first, block.first + block.samples)
        self.hard[views, rows] = hard_labels(logits)
        if self.packed is not None:
            self.packed[views, rows] = pack(shape.codec, logits)
        np.asarray(self.pixels)[views, block.first // shape.block] = digests

    def check(self, shape: Layout) -> None:
        """Raises UsageError unless these are the answers on a part of this layout."""
        g, s = self.part
        if g < 0 or not 0 <= s < shape.shards:
            raise UsageError(f"part {self.part}: expected shards 0..{shape.shards - 1}")
        rows, packed = (shape.group, shape.rows(s)), "nothing"
        if shape.codec != "none":
            wide = (*rows, packed_width(shape.codec, shape.classes))
            packed = f"{packed_dtype(shape.codec)} {wide}"
        for name, array, expected in (("hard", self.hard, f"uint16 {rows}"), ("logits", self.packed, packed)):
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            if found != expected:
                raise UsageError(f"part {self.part}: {name}: expected {expected}, found {found}")
        if [len("".join(view)) for view in self.pixels] != [16 * shape.blocks(s)] * shape.group:
            raise UsageError(
                f"part {self.part}: pixels: expected {shape.group} x {shape.blocks(s)} digests of 16 hex digits"
            )


class _Store(LocalStore):
    """A local store that answers ``zarr.json`` from memory; written files lie flat in ``root`` (one part)."""

    def __init__(self, root: Path, documents: Mapping[str, bytes], *, read_only: bool) -> None:
        super().__init__(root, read_only=read_only)
        self._documents, self._origin = documents, object_store.origin(root)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        prototype = prototype or default_buffer_prototype()
        if key.endswith("zarr.json"):
            document = self._documents.get(key)
            return None if document is None else prototype.buffer.from_bytes(document)
        # Read here and not in a thread: a block is a few kB, and the hop costs more than the read.
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if self._origin is None:
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(self._remote(key, byte_range))

    def _remote(self, key: str, of: ByteRequest | None) -> bytes:
        """The same from an object store, by one request for the range."""
        size = (self.root / key).stat().st_size  # the copy's file has the object's size
        start, end = 0, size
        if isinstance(of, RangeByteRequest):
            start, end = of.start, min(of.end, size)
        elif isinstance(of, OffsetByteRequest):
            start = of.offset
        elif isinstance(of, SuffixByteRequest):
            start = max(0, size - of.suffix)
        return object_store.read_range(f"{self._origin}/{key}", size, start, end - start)

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key.split("/", 1)[0], value)


def open_arrays(
    root: Path, identity: Mapping[str, Any], layout: Layout, views: int, *, read_only: bool
) -> dict[str, Any]:
    """The zarr arrays of a cache of V views by name, for reading or for writing one part into ``root``."""
    store = _Store(root, metadata(identity, layout, views), read_only=read_only)
    mode: Literal["r", "r+"] = "r" if read_only else "r+"
    return {name: zarr.open_array(store, path=name, mode=mode, zarr_format=3) for name in layout.arrays}


def part_selection(layout: Layout, part: Part) -> tuple[slice, slice]:
    """The views and the samples of a part, as indices into the arrays."""
    views, first = layout.views_of(part[0]), part[1] * layout.shard_size
    return slice(views.start, views.stop), slice(first, first + layout.rows(part[1]))
