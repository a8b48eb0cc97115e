"""Training with few labels: which images keep theirs.

The choice is stratified and keyed: of each class, the images whose hash of (seed, key) is lowest keep their label. So it
depends on no order, and the 10 of a class are among the 20. Nothing is packed again, and no teacher labels again.
"""

from collections import defaultdict
from contextlib import suppress

import numpy as np
import xxhash

from pipeline.base.files import digest, write_durably
from pipeline.data.shards import Shards
from pipeline.runtime.machine import pool_root, rank
from pipeline.runtime.progress import say
from pipeline.training.config import LoopConfig
from pipeline.views.chance import Draws


def choose_labelled(shards: Shards, per_class: int, seed: int) -> np.ndarray:
    """Which samples keep their label: bool (N,), at most ``per_class`` of each class. Reads the indices only."""
    ranked: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for block in shards.blocks:
        for place, (label, key) in enumerate(zip(shards.labels(block).tolist(), shards.keys(block), strict=True)):
            ranked[label].append((Draws("labelled", seed, key).word(), key, block.row + place))
    kept = np.zeros(shards.samples, bool)
    for entries in ranked.values():
        kept[[row for *_, row in sorted(entries)[:per_class]]] = True
    return kept


def _remembered(shards: Shards, per_class: int, seed: int) -> np.ndarray:
    """``choose_labelled``, kept in the work pool by the manifest's hash, since it takes 12 s for a million samples."""
    path = pool_root() / "labelled" / digest([shards.manifest_hash, per_class, seed])
    with suppress(OSError, ValueError):
        packed = np.frombuffer(path.read_bytes(), np.uint8)
        if len(packed) == -(-shards.samples // 8) + 8 and packed[:8].tobytes() == _sum(packed[8:]):
            return np.unpackbits(packed[8:], count=shards.samples).astype(bool)
    kept = choose_labelled(shards, per_class, seed)
    bits = np.packbits(kept)
    if rank() == 0:
        with suppress(OSError):  # a pool that can't be written costs these seconds again, and no more
            write_durably(path, _sum(bits) + bits.tobytes())
    return kept


def _sum(bits: np.ndarray) -> bytes:
    return xxhash.xxh3_64(bits.data).digest()


def with_labels_of(shards: Shards, config: LoopConfig, only: bool) -> Shards:
    """``shards`` with the labels that ``config.labelled_per_class`` leaves (null: all), or with the labelled samples alone
    (``only``)."""
    if config.labelled_per_class is None:
        return shards
    kept = _remembered(shards, config.labelled_per_class, config.labelled_seed)
    say(f"labelled: {int(kept.sum())} of {shards.samples} images, up to {config.labelled_per_class} per class")
    return shards.with_labels(kept, only)
