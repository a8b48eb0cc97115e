"""Training with few labels: which images keep theirs.

The choice is stratified and keyed: of each class, the images whose hash of (seed, key) is lowest keep their label. So it
depends on no order, and the 10 of a class are among the 20. Nothing is packed again, and no teacher labels again.
"""

from collections import defaultdict

import numpy as np

from pipeline.data.shards import Shards
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


def with_labels_of(shards: Shards, config: LoopConfig, only: bool) -> Shards:
    """``shards`` with the labels that ``config.labelled_per_class`` leaves (null: all), or with the labelled samples alone
    (``only``)."""
    if config.labelled_per_class is None:
        return shards
    kept = choose_labelled(shards, config.labelled_per_class, config.labelled_seed)
    say(f"labelled: {int(kept.sum())} of {shards.samples} images, up to {config.labelled_per_class} per class")
    return shards.with_labels(kept, only)
