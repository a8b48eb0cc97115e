"""Training with few labels: which images keep theirs, and shards that know no others.

The choice is stratified and keyed: of each class those images stay labelled whose hash of (seed, key) is lowest, so that
it depends on no order, and the subset of 10 per class lies in that of 20. Nothing is packed or labelled by a teacher anew.
"""

from collections import defaultdict

import numpy as np

from pipeline.data.shards import Block, Sample, Shards
from pipeline.runtime.progress import say
from pipeline.training.config import LoopConfig
from pipeline.views.chance import Draws

UNKNOWN = -1  # the label of an image whose label is not given


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


class PartlyLabelled(Shards):
    """All samples of a split, with the label ``UNKNOWN`` where ``kept`` (N,) is false."""

    def __init__(self, shards: Shards, kept: np.ndarray) -> None:
        super().__init__(shards.root, shards.manifest, shards.manifest_hash)
        self.kept = kept

    # The base class states its own constructor's arguments; a subclass has others.
    def __reduce__(self) -> tuple[type[Shards], tuple[Shards, np.ndarray]]:  # type: ignore[override]
        return PartlyLabelled, (Shards(self.root, self.manifest, self.manifest_hash), self.kept)

    def read(self, block: Block) -> list[Sample]:
        kept = self.kept[block.row : block.row + block.samples]
        samples = super().read(block)
        return [s if known else Sample(s.key, UNKNOWN, s.data) for s, known in zip(samples, kept, strict=True)]


class OnlyLabelled(Shards):
    """The labelled samples of a split as blocks of their own, at most b each and equally large but for one; for a student
    or a teacher that learns from labels alone. Each sample is a read of its own."""

    def __init__(self, shards: Shards, kept: np.ndarray) -> None:
        super().__init__(shards.root, shards.manifest, shards.manifest_hash)
        self.kept = kept
        rows = np.flatnonzero(kept)
        self.groups = np.array_split(rows, max(1, -(-len(rows) // self.block_size)))

    # The base class states its own constructor's arguments; a subclass has others.
    def __reduce__(self) -> tuple[type[Shards], tuple[Shards, np.ndarray]]:  # type: ignore[override]
        return OnlyLabelled, (Shards(self.root, self.manifest, self.manifest_hash), self.kept)

    @property
    def samples(self) -> int:
        return int(self.kept.sum())

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks of labelled samples; ``shard``, ``first`` and ``row`` are those of the first sample."""
        firsts = [divmod(int(rows[0]), self.shard_size) for rows in self.groups]
        return tuple(
            Block(index, shard, first, int(rows[0]), len(rows))
            for index, ((shard, first), rows) in enumerate(zip(firsts, self.groups))
        )

    def read(self, block: Block) -> list[Sample]:
        places = [divmod(int(row), self.shard_size) for row in self.groups[block.index]]
        singles = [Block(block.index, shard, first, shard * self.shard_size + first, 1) for shard, first in places]
        return [super(OnlyLabelled, self).read(single)[0] for single in singles]


def with_labels_of(shards: Shards, config: LoopConfig, only: bool) -> Shards:
    """``shards`` as ``config.labelled_per_class`` lets a training see them: unchanged where it is null; else all of them,
    labelled in part, or the labelled ones alone (``only``)."""
    if config.labelled_per_class is None:
        return shards
    kept = choose_labelled(shards, config.labelled_per_class, config.labelled_seed)
    say(f"labelled: {int(kept.sum())} of {shards.samples} images, up to {config.labelled_per_class} per class")
    return OnlyLabelled(shards, kept) if only else PartlyLabelled(shards, kept)
