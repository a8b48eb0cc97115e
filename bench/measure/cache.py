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
from pipeline.cache.codec import codecs_for, hard_labels, pack, stored_dtype, stored_width, unpack
from pipeline.cache.commit import PartRows
from pipeline.cache.layout import Layout
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Block
from tests.support import fake_teacher as fake

Read = Callable[[Block, int, int], object]


def build(root: Path, shape: Layout, views: int) -> tuple[Path, np.ndarray, np.ndarray | None]:
    """A cache in a pool, and the same rows as raw memory maps: hard (V, N), stored (V, N, W)."""
    pool = open_pool(root / "pool", fake.identity(shape))
    hard = np.memmap(root / f"{shape.codec}.hard", np.uint16, "w+", shape=(views, shape.samples))
    dtype, width = stored_dtype(shape.codec), stored_width(shape.codec, shape.classes)
    stored = None
    if dtype is not None:
        stored = np.memmap(root / f"{shape.codec}.logits", dtype, "w+", shape=(views, shape.samples, width))
    for part in shape.parts(views):
        rows = fake.logits(shape, part)
        encoded = pack(shape.codec, rows)
        commit_part(pool, PartRows(part, hard_labels(rows), encoded, fake.pixels(shape, part), "source"))
        where = (
            slice(part[0] * shape.group, (part[0] + 1) * shape.group),
            slice(part[1] * shape.shard_size, part[1] * shape.shard_size + shape.rows(part[1])),
        )
        hard[where] = hard_labels(rows)
        if stored is not None and encoded is not None:
            stored[where] = encoded
    return pool.path, hard, stored


def per_row(read: Read, work: list[tuple[Block, int]], r: int) -> float:
    """CPU microseconds."""
    return microseconds(lambda: [read(block, view, r) for block, view in work], r * sum(b.samples for b, _ in work))


def measure(root: Path, shape: Layout, views: int, rounds: int) -> None:
    path, hard, stored = build(root / shape.codec, shape, views)
    cache = open_cache(path)

    def rows(array: np.ndarray, block: Block, view: int, r: int) -> np.ndarray:
        return np.array(array[view : view + r, block.row : block.row + block.samples])

    def raw(block: Block, view: int, r: int) -> object:
        return rows(hard, block, view, r), None if stored is None else rows(stored, block, view, r)

    def decoded(block: Block, view: int, r: int) -> object:
        labels = rows(hard, block, view, r)
        return labels, None if stored is None else unpack(shape.codec, rows(stored, block, view, r), shape.classes)

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
