"""What packing saw of the images that a person may not expect: conversions, rotations, images in both splits."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.listing import Split
from pipeline.data.shards import Quarantined
from pipeline.runtime.progress import say


@dataclass(frozen=True)
class Seen:
    """What was seen of the images of a shard, or of several. ``digests`` uint64 (n,): xxh3_64 of each image's bytes as they
    were found; ``found`` and ``packed``: bytes of the ``converted`` ones."""

    digests: np.ndarray
    rotated: int = 0
    converted: int = 0
    found: int = 0
    packed: int = 0

    def __add__(self, other: "Seen") -> "Seen":
        sums = (self.rotated + other.rotated, self.converted + other.converted)
        sizes = (self.found + other.found, self.packed + other.packed)
        return Seen(np.concatenate([self.digests, other.digests]), *sums, *sizes)


NOTHING = Seen(np.empty(0, np.uint64))


def say_seen(name: str, seen: Seen, orientation: str) -> None:
    """What a person may not expect of the images that were packed."""
    if seen.converted:
        sizes = f"{seen.found / 1e6:.1f} MB became {seen.packed / 1e6:.1f} MB"
        say(f"{name}: {seen.converted} BMP, TIFF or GIF images are packed as exact PNG: {sizes}")
    if seen.rotated:
        done = "data.orientation: stored leaves their pixels as they are, as DeiT does; upright would turn them"
        if orientation == "upright":
            done = "data.orientation: upright turns them when they are decoded"
        say(f"{name}: {seen.rotated} images carry a rotation in their EXIF; {done}")


def say_twins(splits: dict[str, Split], quarantined: tuple[Quarantined, ...], digests: dict[str, np.ndarray]) -> None:
    """Warns of images that are in both splits, byte for byte: links or copies, on which no score means anything."""
    twins = np.flatnonzero(np.isin(digests["val"], digests["train"]))
    if len(twins):
        left_out = {item.path for item in quarantined}
        kept = [entry.path for entry in splits["val"].entries if entry.path not in left_out]
        count = f"{len(twins)} of {len(kept)} validation images are training images as well"
        say(f"warning: {count} (the first: {kept[twins[0]]!r}): their scores say nothing; is val a link or a copy?")
