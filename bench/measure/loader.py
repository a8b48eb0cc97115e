"""The loader: what it costs the process that trains, what it costs a worker, and whether workers add up.

\b
    python -m bench.measure.loader                   all three, at 224 px: about five minutes
    python -m bench.measure.loader scaling           one of them

cpu: CPU time per view of the process that trains and of a worker, with workers that read, choose and draw nothing (they pair,
plan, hash and send); ``finish`` is left out. scaling: views per second of two workers over one, with everything drawn.
precompute: views per second of the teacher stage with a teacher that costs nothing, over the loader alone. The last two are
times of the clock, and say something on an idle machine only.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
import xxhash

from bench.photo_shards import jpegs, photo_shards
from bench.timing import compared, interleaved, machine, timed
from pipeline.cache.identity import cache_identity
from pipeline.cache.layout import CacheConfig, layout_of
from pipeline.cache.pool import open_pool
from pipeline.data.shards import Block, Shards
from pipeline.runtime.machine import cores
from pipeline.teacher import label, precompute
from pipeline.training import batches
from pipeline.training.schedule import Schedule
from pipeline.views import tasks, workers
from pipeline.views.choose import View, Visit, choose
from pipeline.views.drawn import DrawnVisit
from pipeline.views.finish import FinishPlan, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe
from tests.support.world import make_world, open_world

CPU = torch.device("cpu")
REPEATS = 3


def draw_nothing(
    shards: Shards, recipe: Recipe, block: Block, first_view: int, views: int, out: np.ndarray | None = None
) -> DrawnVisit:
    """What ``draw_visit`` does beside reading, choosing and drawing."""
    assert out is not None
    n, keys = block.samples, shards.keys(block)
    chosen: list[View] = [choose(recipe, "sample", 0, 375, 500)] * n
    mixed = [pair(recipe, keys[0], first_view + i, n) for i in range(views)]
    return DrawnVisit(
        block=block,
        first_view=first_view,
        pixels=torch.from_numpy(out),
        plan=FinishPlan.stack([finish_plan(chosen, by, recipe.erase.count) for by in mixed]),
        pairs=torch.from_numpy(np.stack([by.pairs for by in mixed])),
        labels=torch.from_numpy(shards.labels(block)),
        digests=tuple(xxhash.xxh3_64_hexdigest(out[i]) for i in range(views)),
    )


def costs(shards: Shards, recipe: Recipe, steps: int, warm: int, number: int) -> tuple[float, float]:
    """CPU microseconds per view of this process, finishing nothing, and of the workers, drawing nothing."""
    schedule = Schedule(0, tuple(block.samples for block in shards.blocks), REPEATS, 300, 1, 4, 256)
    idle = patch.object(tasks, "draw_visit", draw_nothing)
    with idle, patch.object(batches, "finish", lambda pixels, plan, recipe: pixels):
        stream = batches.Loader(schedule, range(1), shards, recipe, CPU, number).batches(0, warm + steps)
        for _ in range(warm):
            next(stream)
        before = time.process_time(), _of_children()
        for _ in range(steps):
            next(stream)
        after = time.process_time(), _of_children()
        stream.close()
    own, theirs = (1e6 * (b - a) / (steps * schedule.batch) for a, b in zip(before, after))
    return own, theirs


def _of_children() -> float:
    """CPU seconds of the loader's processes so far."""
    ticks = 0
    for process in multiprocessing.active_children():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def loaded(shards: Shards, recipe: Recipe, number: int) -> float:
    """Views per second of the loader alone, from the first visit on, so that no start of a process counts."""
    visits = [Visit(block.index, 0, REPEATS, 0) for block in shards.blocks]
    stream = workers.read_visits(shards, recipe, visits, REPEATS, number)
    next(stream)
    views, spent = timed(lambda: sum(drawn.pixels.shape[0] * drawn.pixels.shape[1] for drawn in stream))
    return views / spent


def precomputed(folder: Path, shards: Shards, recipe: Recipe, number: int) -> float:
    """Views per second of the teacher stage with a teacher that costs nothing, commits and all."""
    world = open_world(folder / "world")
    config = CacheConfig(recipe="r", teacher="t", views=REPEATS, group=REPEATS, codec="none")
    layout = layout_of(shards, config)
    identity = cache_identity(shards, recipe, layout, world.teacher.identity(), CPU)
    pool = open_pool(Path(tempfile.mkdtemp(dir=folder)), identity)
    free = torch.zeros(REPEATS, shards.block_size, 10)
    with patch.object(label, "ask_visit", lambda teacher, recipe, drawn: lambda: free[:, : drawn.block.samples]):
        parts = precompute.select(layout, REPEATS, precompute.Share())
        done = precompute.fill(pool, parts, shards, recipe, world.teacher, number)
    return done.views / done.total_s


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(["cpu", "scaling", "precompute"]))
@click.option("--steps", default=40, show_default=True, help="Steps of 256, for cpu.")
@click.option("--samples", default=2048, show_default=True, help="JPEGs of 500 x 375 px.")
@click.option("--size", default=224, show_default=True, help="Pixels.")
@click.option("--rounds", default=5, show_default=True)
def main(parts: tuple[str, ...], steps: int, samples: int, size: int, rounds: int) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork")  # functions are replaced, which a fork inherits
    wanted = parts or ("cpu", "scaling", "precompute")
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = photo_shards(folder / "photos", jpegs(16), samples)
        recipe = Recipe(seed=0, size=size, mix=Mix(mixup=0.8, cutmix=1.0))
        if "cpu" in wanted:
            found = [costs(shards, recipe, steps, 24, 2) for _ in range(rounds)]
            own, theirs = (statistics.median(column) for column in zip(*found))
            print(f"\nper view {own:.1f} us of CPU in the process that trains, {theirs:.1f} us in a worker", flush=True)
        if "scaling" in wanted:
            ways = {f"{n} worker(s)": partial(loaded, shards, recipe, n) for n in (1, 2)}
            print(f"\n{compared(interleaved(ways, rounds), 'views/s')}", flush=True)
        if "precompute" in wanted:
            make_world(folder / "world")
            number = max(1, cores() - 1)
            stage = partial(precomputed, folder, shards, recipe, number)
            ways = {"loader alone": partial(loaded, shards, recipe, number), "teacher stage": stage}
            print(f"\n{number} worker(s)\n\n{compared(interleaved(ways, rounds), 'views/s')}", flush=True)


if __name__ == "__main__":
    main()
