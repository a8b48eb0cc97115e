"""The teacher cache at the full size of ImageNet, with a fake teacher of realistic agreement.

\b
    python -m bench.measure.scale                            1,281,167 samples x 300 views, hard labels only: about 1 GB in --root
    python -m bench.measure.scale --codec top16 --group 150 --samples 128117 --shard-size 104
                                                             with logits, as configs/cache/imagenet.yaml, of a tenth of the
                                                             samples in nearly as many shards and files: about 4 GB
    python -m bench.measure.scale --samples 20000 --views 60 a small size

Prints bytes, files, seconds and memory; the pool, the published copy and the baseline are removed afterwards.
"""

import hashlib
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import click
import numpy as np
import torch

from bench.timing import compared, interleaved, machine, microseconds, timed
from pipeline.cache.arrays import PartRows
from pipeline.cache.codec import pack
from pipeline.cache.layout import Layout, Store
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import Cache, open_cache
from pipeline.cache.verify import verify
from tests.support import fake_teacher as fake
from tests.support.logits import peaked

CLASSES = 1000


def labels_of(chance: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per sample: its label, how often a view of it gets that answer (mean 0.76, many near 1), and 5 usual confusions."""
    labels = chance.integers(0, CLASSES, samples)
    return labels, chance.beta(1.6, 0.5, samples), chance.integers(0, CLASSES, (samples, 5))


def answers(chance: np.random.Generator, views: int, samples: int) -> np.ndarray:
    """Hard labels uint16 (G, n) as a teacher gives them on strong augmentations: the label, a usual confusion, or any."""
    labels, agreement, confusions = labels_of(chance, samples)
    shape = (views, samples)
    pick = np.searchsorted(np.array([0.5, 0.75, 0.87, 0.95]), chance.random(shape))
    wrong = np.where(
        chance.random(shape) < 0.15, chance.integers(0, CLASSES, shape), confusions[np.arange(samples), pick]
    )
    return np.where(chance.random(shape) < agreement, labels, wrong).astype(np.uint16)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def written() -> int:
    """Bytes that this process gave to write()."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


def fill(pool: Store, views: int) -> tuple[list[float], float]:
    """Commits all parts; seconds of each commit, and the memory in use after the first, MB."""
    shape, seconds, first = pool.layout, [], 0.0
    packed = pack(shape.codec, peaked(1024))
    for g, s in shape.parts(views):
        # The same samples in every group, so that the labels belong to the images.
        hard = answers(np.random.default_rng([s, g]), shape.group, shape.rows(s))
        rows = None if packed is None else packed[np.random.default_rng([s, g]).integers(0, len(packed), hard.shape)]
        part = PartRows((g, s), hard, rows, fake.pixels(shape, (g, s)), pool.identity["shards"][s])
        seconds.append(timed(partial(commit_part, pool, part))[1])
        first = first or peak()
    return seconds, first


def write(root: Path, shape: Layout, views: int) -> Store:
    """Fills a pool and prints what it cost."""
    pool = open_pool(root / "pool", fake.identity(shape, classes=[f"n{c:08d}" for c in range(CLASSES)]))
    before = written()
    (seconds, first_peak), total = timed(partial(fill, pool, views))
    size = sum(file.stat().st_size for name in (*shape.arrays, "commits") for file in files(pool.path / name))
    commit, teacher = statistics.median(seconds), shape.group * shape.shard_size / 10_000
    print(
        f"write     {len(seconds)} parts in {total:.0f} s, of which the fake teacher took {total - sum(seconds):.0f} s"
    )
    print(
        f"          a commit with fsync takes {1e3 * commit:.1f} ms (median), {commit / teacher:.2%} of a part's teacher time"
    )
    print("          at 10,000 views/s, while the teacher goes on")
    print(f"          bytes written / bytes kept: {(written() - before) / size:.3f}")
    print(f"memory    at most {first_peak:.0f} MB at the first part, {peak():.0f} MB at the last")
    return pool


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def streaming(root: Path, cache: Cache, shape: Layout, views: int) -> str:
    """One view of one shard, read in blocks, against a torch.save file per image that holds its views (as FKD does)."""
    root.mkdir()
    blocks, samples = [block for block in fake.blocks(shape) if block.shard == 0], shape.rows(0)
    rows = np.concatenate([cache.read(block, 0, shape.group).hard for block in blocks], 1)
    many = np.tile(rows, (-(-views // shape.group), 1))[:views]
    for sample in range(samples):
        torch.save(torch.from_numpy(many[:, sample].astype(np.int16)), root / f"{sample}.pt")

    def blockwise(view: int) -> None:
        for block in blocks:
            cache.read(block, view % views)

    def by_file(view: int) -> None:
        for sample in range(samples):
            torch.load(root / f"{sample}.pt")[view % views]

    def per_row(read: Callable[[int], None], turns: Iterator[int]) -> float:
        return microseconds(lambda: read(next(turns)), samples)

    ways = {
        "cache, by blocks": partial(per_row, blockwise, count(0, 37)),
        "a torch.save file per image": partial(per_row, by_file, count(0, 37)),
    }
    return compared(interleaved(ways, 7), "us per row")


@click.command(help=__doc__)
@click.option("--samples", default=1_281_167, show_default=True)
@click.option("--views", default=300, show_default=True)
@click.option("--group", default=60, show_default=True)
@click.option("--shard-size", default=1024, show_default=True)
@click.option("--codec", default="none", show_default=True)
@click.option("--root", type=click.Path(path_type=Path), help="Where to work (default: a temporary folder).")
def main(samples: int, views: int, group: int, shard_size: int, codec: str, root: Path | None) -> None:
    torch.set_num_threads(1)
    print(machine())
    folder = Path(tempfile.mkdtemp(dir=root))
    shape = Layout(samples, CLASSES, shard_size, 256 if shard_size % 256 == 0 else shard_size, group, codec)
    out = folder / "out"
    try:
        pool = write(folder, shape, views)
        print(f"publish   {timed(lambda: publish(pool, out, views, 10**12))[1]:.1f} s (copied, checked, synced)")
        size, records = (sum(file.stat().st_size for file in files(of)) for of in (out, out / "commits"))
        print(f"size      {size / 1e9:.3f} GB in {len(files(out))} files, {records / 1e9:.3f} GB of it commit records")
        cache, opened = timed(partial(open_cache, out))
        _, first = timed(lambda: cache.read(fake.blocks(shape)[0], 0))
        in_pool = timed(partial(open_cache, pool.path))[1]
        print(f"opening   {opened:.3f} s, and {first:.3f} s to the first block; in the pool {in_pool:.3f} s")
        hashed = timed(lambda: [hashlib.md5(file.read_bytes()).hexdigest() for file in files(out)])[1]
        print(f"md5       {hashed:.1f} s for all files on one core, as dvc add does it")
        report, checked = timed(partial(verify, out))
        print(f"verify    {checked:.1f} s: {report.whole} of {report.parts} parts whole")
        print(f"\nReading one view of one shard:\n\n{streaming(folder / 'per image', cache, shape, views)}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
