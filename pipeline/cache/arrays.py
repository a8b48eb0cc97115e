"""The zarr arrays of a teacher cache: their metadata, and a store that trusts no metadata on disk.

The metadata is a function of (identity, V) and is served to zarr from memory; on disk it is there for other readers,
and a published cache whose ``zarr.json`` differs from the function by one byte is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from pipeline.base import files
from pipeline.cache.codec import stored_dtype, stored_width
from pipeline.cache.layout import Layout, Part

FORMAT = "offline-deit teacher cache"
FORMAT_VERSION = 1
ATTRIBUTES = "offline_deit"  # key of our attributes in the group's zarr.json


def metadata(identity: Mapping[str, Any], layout: Layout, views: int) -> dict[str, bytes]:
    """The bytes of every ``zarr.json`` of a cache of V views, by key.

    hard: uint16 (V, N), chunk (G, S), sample-major inside the chunk (17 % smaller: equal labels of a sample lie side by
    side), zstd and crc32c. logits: (V, N, W), Zarr shard (G, S, W), inner chunk (1, b, W), crc32c, no compression: dense
    logits don't compress, and zstd would take 3 to 19 % off topK's packed rows. The group carries Zarr's consolidated
    metadata, so that other readers need not list the directory and stumble over the commit records.
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
        width = stored_width(layout.codec, layout.classes)
        single_byte = stored_dtype(layout.codec) == np.uint8
        sharding = {
            "chunk_shape": [1, layout.block, width],
            "codecs": [{"name": "bytes"} if single_byte else bytes_codec, crc],
            "index_codecs": [bytes_codec, crc],
            "index_location": "end",
        }
        # Keys with dots put every part in one folder as one file. With slashes a part would be a folder of its own, which
        # exists before its file does, so that a listing of names could not tell which parts are there.
        arrays["logits"] = _array(
            (*shape, width),
            (*chunk, width),
            "uint8" if single_byte else "float16",
            255 if single_byte else "NaN",  # a row of 255 would have a scale of NaN: none is written
            [{"name": "sharding_indexed", "configuration": sharding}],
            ["view", "sample", "byte" if single_byte else "class"],
            separator=".",
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
    separator: str = "/",
) -> dict[str, Any]:
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


class _Store(LocalStore):
    """A local store that answers ``zarr.json`` from memory; written files lie flat in ``root`` (one part)."""

    def __init__(self, root: Path, documents: Mapping[str, bytes], *, read_only: bool) -> None:
        super().__init__(root, read_only=read_only)
        self._documents = documents

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        prototype = prototype or default_buffer_prototype()
        if key.endswith("zarr.json"):
            document = self._documents.get(key)
            return None if document is None else prototype.buffer.from_bytes(document)
        # Read here and not in a thread: a block is a few kB, and the hop costs more than the read.
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)

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
