"""The loader: its bits, what it costs the process that trains, what it costs a worker, and whether workers add up.

    python -m bench.measure.loader                                   all four, at 224 px: about five minutes
    python -m bench.measure.loader bits --steps 6                    the small size of the tests; exits 1 on a wrong bit

bits: every step's batch with 0 to 3 workers, and with memory for one visit ahead, against batches put together plainly from
visits drawn into memory of their own. cpu: CPU time per view of the process that trains and of a worker, with workers that
read, choose and draw nothing (they pair, plan, hash and send); ``finish`` is left out. scaling: views per second of two
workers over one, with everything drawn. precompute: views per second of the teacher stage with a teacher that costs
nothing, over the loader alone. The last two are wall times, so that they mean something in a quiet run only: medians of
interleaved rounds, and the machine's load beside them.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
import xxhash

from bench.measure.views import jpegs
from pipeline.cache.identity import cache_identity
from pipeline.cache.layout import CacheConfig, layout_of
from pipeline.cache.pool import open_pool
from pipeline.data.listing import Entry, Split
from pipeline.data.pack import pack
from pipeline.data.shards import Block, Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.config import validate
from pipeline.runtime.machine import device
from pipeline.student.train import make_schedule
from pipeline.teacher import precompute
from pipeline.training import batches
from pipeline.training.schedule import Schedule, windows
from pipeline.views import ring, workers
from pipeline.views.choose import View, choose
from pipeline.views.drawn import DrawnVisit, draw_visit
from pipeline.views.finish import FinishPlan, finish, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe
from pipeline.views.visits import Visit
from tests.support.world import make_world, open_world, training

CPU = torch.device("cpu")
REPEATS = 3


def wrong_bits(folder: Path, steps: int) -> int:
    """How many batches differ from those that are put together plainly."""
    world, lanes = make_world(folder), range(2)
    schedule = make_schedule(training(world, steps, lanes=2, window=2), world.shards, 6)
    expected = [digest(*step) for step in plainly(world.shards, world.recipe, schedule, steps)]
    size = batches.windows_size(schedule, lanes, world.shards, world.recipe, 2)
    wrong = 0
    for number, short in ((0, False), (1, False), (2, False), (3, False), (2, True)):
        little = patch.object(ring, "free_memory", lambda: int((size.held + 1.5) * size.slot / 0.8))
        with little if short else nullcontext():
            # All are taken before one is looked at: no later batch may touch them, whatever a GPU has still to copy.
            taken = list(batches.batches(schedule, lanes, 0, steps, world.shards, world.recipe, device(), number))
        found = [digest(batch.images, batch.labels, batch.partner_labels, batch.lam) for batch in taken]
        wrong += abs(len(found) - len(expected)) + sum(a != b for a, b in zip(found, expected))
    return wrong


def digest(*tensors: torch.Tensor) -> str:
    state = xxhash.xxh3_64()
    for tensor in tensors:
        state.update(tensor.cpu().numpy().tobytes())
    return state.hexdigest()


def plainly(shards: Shards, recipe: Recipe, schedule: Schedule, steps: int) -> list[tuple[torch.Tensor, ...]]:
    """Images, labels, partners' labels and shares of each step, from visits that are drawn into memory of their own and
    finished whole; of a step's pairs of one lane, those of one visit stand together."""
    lanes: list[list[tuple[int, int, DrawnVisit, int, int]]] = [[] for _ in range(schedule.lanes)]
    for number, window in enumerate(windows(schedule, range(schedule.lanes), 0, steps)):
        drawn = [draw_visit(shards, recipe, shards.blocks[v.block], v.first_view, v.repeats) for v in window.visits]
        lanes[window.lane] += [(number, i, drawn[i], view, pair) for i, view, pair in window.order.tolist()]
    given = []
    for first in range(0, steps * schedule.pairs_per_step, schedule.pairs_per_step):
        rows: list[tuple[torch.Tensor, ...]] = []
        for lane in lanes:
            for _, _, of, view, row in sorted(lane[first : first + schedule.pairs_per_step], key=lambda each: each[:2]):
                images = finish(of.pixels[view], of.plan.view(view), recipe)
                a, b = of.pairs[view, row].tolist()
                rows += [(images[x], of.labels[x], of.labels[y], of.plan.lam[view, x]) for x, y in ((a, b), (b, a))]
        given.append(tuple(torch.stack(column) for column in zip(*rows)))
    return given


def photos(folder: Path, samples: int, size: int) -> tuple[Shards, Recipe]:
    """``samples`` JPEGs of 500 x 375 px in one shard of blocks of 256, and DeiT's recipe at ``size`` px."""
    files = jpegs(16)
    entries = [
        Entry(f"{i}", f"p{i:06d}", i % 10, "jpg", len(files[i % 16]), data=files[i % 16]) for i in range(samples)
    ]
    config = validate(DataConfig, {"source": "folder", "shard_size": 1024, "block": 256, "classes": 10}, "data")
    pack(config, tuple("abcdefghij"), {"train": Split(entries), "val": Split(entries[:10])}, folder, 1)
    return Shards.open(folder / "train"), Recipe(seed=0, size=size, mix=Mix(mixup=0.8, cutmix=1.0))


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
    idle = patch.object(workers, "draw_visit", draw_nothing)
    with idle, patch.object(batches, "finish", lambda pixels, plan, recipe: pixels):
        stream = batches.batches(schedule, range(1), 0, warm + steps, shards, recipe, CPU, number)
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


def loaded(shards: Shards, recipe: Recipe, visits: list[Visit], number: int) -> float:
    """Views per second of the loader alone, from the first visit on, so that no start of a process counts."""
    stream = workers.read_visits(shards, recipe, visits, REPEATS, number)
    next(stream)
    start, views = time.perf_counter(), 0
    for drawn in stream:
        views += drawn.pixels.shape[0] * drawn.pixels.shape[1]
    return views / (time.perf_counter() - start)


def visits_of(shards: Shards, groups: int) -> list[Visit]:
    return [Visit(block.index, g * REPEATS, REPEATS, 0) for g in range(groups) for block in shards.blocks]


def compared(title: str, rounds: int, ways: dict[str, Callable[[], float]]) -> None:
    """Prints the medians of two ways in interleaved rounds, and the second over the first."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in reversed(ways) if number % 2 else ways:
            found[way].append(ways[way]())
    first, second = (statistics.median(values) for values in found.values())
    load = os.getloadavg()[0]
    shown = ", ".join(f"{way} {statistics.median(values):.0f}" for way, values in found.items())
    print(f"{title}: views/s {shown}; ratio {second / first:.3f} (load {load:.1f}, {os.cpu_count()} cores)", flush=True)


def precomputed(folder: Path, shards: Shards, recipe: Recipe, groups: int, number: int) -> float:
    """Views per second of the teacher stage with a teacher that costs nothing, commits and all."""
    world = open_world(folder / "world")
    layout = layout_of(
        shards, CacheConfig(recipe="r", teacher="t", views=REPEATS * groups, group=REPEATS, codec="none")
    )
    identity = cache_identity(shards, recipe, layout, world.teacher.identity(), CPU)
    pool = open_pool(Path(tempfile.mkdtemp(dir=folder)), identity)
    free = torch.zeros(REPEATS, shards.block_size, 10)
    with patch.object(precompute, "label_visit", lambda teacher, recipe, drawn: free[:, : drawn.block.samples]):
        parts = precompute.select(layout, REPEATS * groups, precompute.Share())
        done = precompute.fill(pool, parts, shards, recipe, world.teacher, REPEATS, number)
    return done.views / done.total_s


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(["bits", "cpu", "scaling", "precompute"]))
@click.option("--steps", default=40, show_default=True, help="Steps of 64 (bits) and of 256 (cpu).")
@click.option("--samples", default=2048, show_default=True, help="JPEGs of 500 x 375 px; not for bits.")
@click.option("--size", default=224, show_default=True, help="Pixels; not for bits.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--start", type=click.Choice(["fork", "forkserver", "spawn"]), help="How workers start; for bits.")
def main(parts: tuple[str, ...], steps: int, samples: int, size: int, rounds: int, start: str | None) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method(start or "fork")  # the parts beside bits replace functions, which a fork inherits
    wanted = parts or ("bits", "cpu", "scaling", "precompute")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "bits" in wanted:
            wrong = wrong_bits(folder / "bits", steps)
            print(f"bits: {wrong} of {5 * steps} batches differ from plain ones", flush=True)
            if wrong:
                sys.exit(1)
        if wanted == ("bits",):
            return
        shards, recipe = photos(folder / "photos", samples, size)
        if "cpu" in wanted:
            found = [costs(shards, recipe, steps, 24, 2) for _ in range(rounds)]
            own, theirs = (statistics.median(column) for column in zip(*found))
            print(f"cpu: per view {own:.1f} us in the process that trains, {theirs:.1f} us in a worker", flush=True)
        if "scaling" in wanted:
            one, two = (lambda n=n: loaded(shards, recipe, visits_of(shards, 1), n) for n in (1, 2))
            compared("scaling", rounds, {"one worker": one, "two": two})
        if "precompute" in wanted:
            make_world(folder / "world")
            number = max(1, (os.cpu_count() or 2) - 1)
            alone = partial(loaded, shards, recipe, visits_of(shards, 1), number)
            stage = partial(precomputed, folder, shards, recipe, 1, number)
            compared(f"precompute, {number} worker(s)", rounds, {"loader alone": alone, "teacher stage": stage})


if __name__ == "__main__":
    main()
