"""JPEGs and shards of them for benches: procedural pictures, or files that a bench brings along."""

from itertools import cycle
from pathlib import Path

import numpy as np

from pipeline.data.listing import Entry, Split
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.config import validate
from tests.support.pictures import jpeg, procedural


def jpegs(count: int) -> list[bytes]:
    """``count`` pictures of 500 x 375 px and about 100 kB."""
    generator = np.random.default_rng(0)
    return [jpeg(procedural(generator, 500, 375), quality=94) for _ in range(count)]


def photo_shards(root: Path, files: list[bytes], samples: int, block: int = 256, classes: int = 10) -> Shards:
    """Shards of four blocks; their samples are the JPEGs ``files``, in turn."""
    entries = [
        Entry(f"{i}", f"p{i:06d}", i * 7 % classes, "jpg", len(data), data=data)
        for i, data in zip(range(samples), cycle(files))
    ]
    config = validate(DataConfig, {"source": "folder", "shard_size": 4 * block, "block": block}, "data")
    pack_splits(config, tuple(f"{c:04d}" for c in range(classes)), {"val": Split(entries)}, root, 1)
    return Shards.open(root / "val")
