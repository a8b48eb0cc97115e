"""The teacher cache at the full size of ImageNet, with a fake teacher of realistic agreement.

    python -m bench.measure.scale                            1,281,167 samples x 300 views, hard labels only: about 1 GB in --root
    python -m bench.measure.scale --codec top16 --group 150 --samples 128117 --shard-size 104
                                                             with logits, as configs/cache/imagenet.yaml: a tenth of the
                                                             samples in (nearly) as many shards and files, about 4 GB
    python -m bench.measure.scale --samples 20000 --views 60 a small size

Prints bytes, files, seconds and memory; the pool, the published copy and the baseline are removed afterwards.
"""

import hashlib
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch

from bench.measure.codecs import peaked
from pipeline.cache.codec import pack
from pipeline.cache.commit import PartRows
from pipeline.cache.layout import Layout
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import Cache, open_cache
from pipeline.cache.verify import verify
from tests.support import fake_teacher as fake

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


def write(root: Path, shape: Layout, views: int) -> Path:
    """Fills a pool and prints what it cost; returns the cache's path."""
    pool = open_pool(root / "pool", fake.identity(shape, classes=[f"n{c:08d}" for c in range(CLASSES)]))
    packed = pack(shape.codec, peaked(1024))
    parts = list(shape.parts(views))
    generate, seconds, before, started = 0.0, [], written(), time.perf_counter()
    first_peak = 0.0
    for g, s in parts:
        at = time.perf_counter()
        # The same samples in every group, so that the labels belong to the images.
        hard = answers(np.random.default_rng([s, g]), shape.group, shape.rows(s))
        rows = None if packed is None else packed[np.random.default_rng([s, g]).integers(0, len(packed), hard.shape)]
        pixels = fake.pixels(shape, (g, s))
        middle = time.perf_counter()
        commit_part(pool, PartRows((g, s), hard, rows, pixels, pool.identity["shards"][s]))
        generate += middle - at
        seconds.append(time.perf_counter() - middle)
        first_peak = first_peak or peak()
    total = time.perf_counter() - started
    names = (*shape.arrays, "commits")
    size = sum(path.stat().st_size for name in names for path in (pool.path / name).rglob("*") if path.is_file())
    teacher = shape.group * shape.shard_size / 10_000
    print(f"write     {len(parts)} parts in {total:.0f} s (fake teacher {generate:.0f} s); commit with fsync: median")
    print(
        f"          {1e3 * statistics.median(seconds):.1f} ms per part, {statistics.median(seconds) / teacher:.2%} of a part's"
    )
    print("          teacher time at 10,000 views/s, and overlapped with it")
    print(f"          bytes written / bytes kept: {(written() - before) / size:.3f}")
    print(f"memory    peak after the first part {first_peak:.0f} MB, after the last {peak():.0f} MB")
    return pool.path


def hashing(out: Path) -> float:
    """Seconds to read and md5 every file, as ``dvc add`` does on one core."""
    started = time.perf_counter()
    for path in out.rglob("*"):
        if path.is_file():
            hashlib.md5(path.read_bytes()).hexdigest()
    return time.perf_counter() - started


def streaming(root: Path, cache: Cache, shape: Layout, views: int, rounds: int = 7) -> None:
    """One view of one shard, read in blocks, against a torch.save file per image that holds its views (as FKD does); CPU time."""
    folder = root / "per image"
    folder.mkdir()
    blocks = [block for block in fake.blocks(shape) if block.shard == 0]
    rows = np.concatenate([cache.read(block, 0, shape.group).hard for block in blocks], 1)
    many = np.tile(rows, (-(-views // shape.group), 1))[:views]
    for sample in range(shape.rows(0)):
        torch.save(torch.from_numpy(many[:, sample].astype(np.int16)), folder / f"{sample}.pt")
    ours, theirs = [], []
    for number in range(rounds):
        view = (37 * number) % views
        at = time.process_time()
        for block in blocks:
            cache.read(block, view)
        middle = time.process_time()
        for sample in range(shape.rows(0)):
            torch.load(folder / f"{sample}.pt")[view]
        ours.append(middle - at)
        theirs.append(time.process_time() - middle)
    a, b = statistics.median(ours) / shape.rows(0), statistics.median(theirs) / shape.rows(0)
    print(
        f"streaming one view of one shard: {1e6 * a:.2f} us per row, a torch.save file per image {1e6 * b:.0f} us: {b / a:.0f}x"
    )


@click.command(help=__doc__)
@click.option("--samples", default=1_281_167, show_default=True)
@click.option("--views", default=300, show_default=True)
@click.option("--group", default=60, show_default=True)
@click.option("--shard-size", default=1024, show_default=True)
@click.option("--codec", default="none", show_default=True)
@click.option(
    "--root", type=click.Path(path_type=Path), default=None, help="Where to work (default: a temporary folder)."
)
def main(samples: int, views: int, group: int, shard_size: int, codec: str, root: Path | None) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=root))
    shape = Layout(samples, CLASSES, shard_size, 256 if shard_size % 256 == 0 else shard_size, group, codec)
    try:
        cache_path = write(folder, shape, views)
        at = time.perf_counter()
        publish(open_pool(folder / "pool", open_cache(cache_path).identity), folder / "out", views, 10**12)
        print(f"publish   {time.perf_counter() - at:.1f} s (copied, checked, synced)")
        paths = [path for path in (folder / "out").rglob("*") if path.is_file()]
        sizes = [path.stat().st_size for path in paths]
        records = sum(path.stat().st_size for path in (folder / "out" / "commits").rglob("*.json"))
        print(f"size      {sum(sizes) / 1e9:.3f} GB in {len(paths)} files, {records / 1e9:.3f} GB of it commit records")
        at = time.perf_counter()
        cache = open_cache(folder / "out")
        opened = time.perf_counter() - at
        cache.read(fake.blocks(shape)[0], 0)
        print(
            f"opening   {opened:.3f} s, and {time.perf_counter() - at - opened:.3f} s to the first block; in the pool",
            end=" ",
        )
        at = time.perf_counter()
        open_cache(cache_path)
        print(f"{time.perf_counter() - at:.3f} s")
        print(f"md5       {hashing(folder / 'out'):.1f} s for all files on one core")
        at = time.perf_counter()
        report = verify(folder / "out")
        print(f"verify    {time.perf_counter() - at:.1f} s: {report.whole} of {report.parts} parts whole")
        streaming(folder, cache, shape, views)
        print(f"load      {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
