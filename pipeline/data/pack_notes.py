"""What packing tells a person about the images: conversions, rotations, images that are in both splits."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.listing import Split
from pipeline.data.manifest import Quarantined
from pipeline.runtime.progress import say


@dataclass(frozen=True)
class PackNotes:
    """Counts over the images of one shard or several. ``digests`` uint64 (n,): xxh3_64 of each image's original bytes;
    ``found``, ``packed``: bytes of the ``converted`` images before and after; ``broken``: with damaged metadata."""

    digests: np.ndarray
    rotated: int = 0
    converted: int = 0
    found: int = 0
    packed: int = 0
    broken: int = 0

    def __add__(self, other: "PackNotes") -> "PackNotes":
        sums = (self.rotated + other.rotated, self.converted + other.converted)
        sizes = (self.found + other.found, self.packed + other.packed)
        return PackNotes(np.concatenate([self.digests, other.digests]), *sums, *sizes, self.broken + other.broken)


NO_NOTES = PackNotes(np.empty(0, np.uint64))


def say_notes(name: str, notes: PackNotes, orientation: str) -> None:
    """Says how many images of the split ``name`` were converted or are stored rotated."""
    if notes.converted:
        sizes = f"{notes.found / 1e6:.1f} MB became {notes.packed / 1e6:.1f} MB"
        say(f"{name}: {notes.converted} BMP, TIFF or GIF images are packed as exact PNG: {sizes}")
    if notes.broken:
        say(f"{name}: {notes.broken} images have damaged EXIF or other metadata; their pixels are whole")
    if notes.rotated:
        done = "data.orientation: stored leaves their pixels as they are, as DeiT does; upright would turn them"
        if orientation == "upright":
            done = "data.orientation: upright turns them when they are decoded"
        say(f"{name}: {notes.rotated} images carry a rotation in their EXIF; {done}")


def say_twins(splits: dict[str, Split], quarantined: tuple[Quarantined, ...], digests: dict[str, np.ndarray]) -> None:
    """Warns of validation images that are, byte for byte, training images too: their scores are meaningless."""
    twins = np.flatnonzero(np.isin(digests["val"], digests["train"]))
    if len(twins):
        left_out = {item.path for item in quarantined}
        kept = [entry.path for entry in splits["val"].entries if entry.path not in left_out]
        count = f"{len(twins)} of {len(kept)} validation images are training images as well"
        first = f"(the first: {kept[twins[0]]!r})"
        say(f"warning: {count} {first}; these scores are meaningless: is val a link to, or a copy of, train?")
