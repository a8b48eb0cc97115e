"""Reading a teacher cache against a raw memory map of the same rows.

\b
    python -m bench.measure.cache

``stream``: every block of a view in order. ``random``: blocks and views in any order. The map has no checksum, no
digest and no missing rows; ``map + decode`` also turns the stored rows into float32, as the cache does.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from bench.timing import head, interleaved, machine, medians, microseconds, ratio, row
from pipeline.cache.codec import codecs_for, hard_labels, pack, unpack
from pipeline.cache.layout import Layout
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Block
from tests.support import fake_teacher as fake

Read = Callable[[Block, int, int], object]


def mapped(path: Path, rows: np.ndarray | None) -> np.ndarray | None:
    if rows is None:
        return None
    np.save(path, rows)
    return np.load(path, mmap_mode="r")


def per_row(read: Read, work: list[tuple[Block, int]], r: int) -> float:
    """CPU microseconds."""
    return microseconds(lambda: [read(block, view, r) for block, view in work], r * sum(b.samples for b, _ in work))


def measure(root: Path, shape: Layout, views: int, rounds: int) -> None:
    cache = open_cache(fake.filled(root / "pool", shape, views).path)
    groups, shards = range(views // shape.group), range(shape.shards)
    logits = np.concatenate([np.concatenate([fake.logits(shape, (g, s)) for s in shards], 1) for g in groups])
    maps = mapped(root / "hard.npy", hard_labels(logits)), mapped(root / "logits.npy", pack(shape.codec, logits))

    def raw(block: Block, view: int, r: int) -> list[np.ndarray]:
        where = slice(view, view + r), slice(block.row, block.row + block.samples)
        return [np.array(rows[where]) for rows in maps if rows is not None]

    def decoded(block: Block, view: int, r: int) -> object:
        return [unpack(shape.codec, rows, shape.classes) for rows in raw(block, view, r)[1:]]

    chance = np.random.default_rng(0)
    blocks = fake.blocks(shape)
    for r in (1, 3):
        stream = [(block, r) for block in blocks]
        picks = zip(chance.permutation(len(blocks)), chance.integers(0, views // r, len(blocks)))
        shuffled = [(blocks[block], int(view) * r) for block, view in picks]
        for name, work in (("stream", stream), ("random", shuffled)):
            ways: dict[str, Read] = {"cache": cache.read, "map": raw, "map + decode": decoded}
            found = interleaved({way: partial(per_row, read, work, r) for way, read in ways.items()}, rounds)
            ratios = (f"{ratio(found['cache'], found[way]):.1f}" for way in ("map", "map + decode"))
            print(row(shape.codec, r, name, f"{medians(found)['cache']:.2f}", *ratios), flush=True)


@click.command(help=__doc__)
@click.option("--classes", default=1000, show_default=True)
@click.option("--shards", default=4, show_default=True)
@click.option("--views", default=12, show_default=True)
@click.option("--group", default=6, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(classes: int, shards: int, views: int, group: int, rounds: int) -> None:
    print(f"{machine()}\n")
    print(head("codec", "r", "order", "us per row", "of the map", "of map + decode"))
    with tempfile.TemporaryDirectory() as root:
        for codec in codecs_for(classes):
            (Path(root) / codec).mkdir()
            measure(Path(root), Layout(1024 * shards, classes, 1024, 256, group, codec), views, rounds)


if __name__ == "__main__":
    main()
