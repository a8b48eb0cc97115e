"""Batches are a function of (seed, step): any worker count, any split of the lanes, any resume."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
import xxhash

from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import device
from pipeline.student.train import make_schedule
from pipeline.training.batches import Batch, Loader
from pipeline.training.schedule import Schedule
from pipeline.views.choose import Visit
from pipeline.views.drawn import draw_visit
from pipeline.views.finish import finish
from pipeline.views.workers import read_visits
from tests.support.world import World, make_world, training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def schedule(world: World) -> Schedule:
    return make_schedule(training(world, 6, lanes=4, window=1), world.shards, 6)


@pytest.fixture(scope="module")
def three_cycles(world: World) -> tuple[Schedule, list[str]]:
    """N = 349 is prime, the last shard short, its last block odd; 8 lanes; the digest of each step's global batch."""
    schedule = make_schedule(training(world, 1, batch=16, lanes=8), world.shards, 9)
    return schedule, digests(world, schedule, 0, [range(8)])


def load(
    world: World, schedule: Schedule, start: int, stop: int, workers: int = 0, lanes: range = range(4)
) -> list[Batch]:
    return list(Loader(schedule, lanes, world.shards, world.recipe, device(), workers).batches(start, stop))


def digests(world: World, schedule: Schedule, workers: int, ranks: list[range]) -> list[str]:
    """Per step of three cycles the digest of images, labels and shares of all ranks' rows, in the order of ranks."""
    steps = 3 * schedule.pairs_per_cycle * 2 // schedule.batch
    loaders = [Loader(schedule, lanes, world.shards, world.recipe, device(), workers) for lanes in ranks]
    streams = [loader.batches(0, steps) for loader in loaders]
    found = []
    for parts in zip(*streams, strict=True):
        state = xxhash.xxh3_64()
        for name in ("images", "labels", "partner_labels", "lam"):
            for part in parts:
                state.update(getattr(part, name).cpu().numpy().tobytes())
        found.append(state.hexdigest())
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores is what is tried here
@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (1, 3), (2, 0), (4, 1), (8, 0)])
def test_any_workers_and_any_world_give_the_same_global_sequence(
    world: World, three_cycles: tuple[Schedule, list[str]], world_size: int, workers: int
) -> None:
    schedule, expected = three_cycles
    share = 8 // world_size
    ranks = [range(rank * share, (rank + 1) * share) for rank in range(world_size)]
    assert digests(world, schedule, workers, ranks) == expected


def test_resume_in_the_middle_of_a_window_gives_the_rest(world: World, schedule: Schedule) -> None:
    whole = load(world, schedule, 0, 6)
    for start in (1, 4, 5):
        for a, b in zip(whole[start:], load(world, schedule, start, 6), strict=True):
            assert torch.equal(a.images, b.images)


def test_a_row_is_what_the_teacher_saw_of_that_view(world: World, schedule: Schedule) -> None:
    batch = load(world, schedule, 0, 1)[0]
    teacher_rows = set()
    for block in world.shards.blocks:
        drawn = draw_visit(world.shards, world.recipe, block, 0, 3)
        for view, pixels in enumerate(drawn.pixels):
            images = finish(pixels, drawn.plan.view(view), world.recipe)
            teacher_rows |= {row.numpy().tobytes() for row in images}
    assert all(row.cpu().numpy().tobytes() in teacher_rows for row in batch.images)


def test_workers_outlive_the_signal_that_slurm_sends_to_the_whole_group(world: World) -> None:
    visits = [Visit(block.index, 0, 3, 0) for block in world.shards.blocks]
    stream = read_visits(world.shards, world.recipe, visits, 3, 1)
    seen = [next(stream).block.index]
    for worker in multiprocessing.active_children():
        assert worker.pid is not None, "the worker has started"
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(worker.pid, number)
    seen += [drawn.block.index for drawn in stream]
    assert seen == [block.index for block in world.shards.blocks]


def test_a_damaged_shard_stops_the_run_with_one_sentence_from_the_worker(world: World, tmp_path: Path) -> None:
    broken = make_world(tmp_path)
    path = broken.root / "shards" / "train" / broken.shards.names[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    visits = [Visit(block.index, 0, 1, 0) for block in broken.shards.blocks]
    with pytest.raises(IntegrityError, match=broken.shards.names[1]) as refusal:
        list(read_visits(broken.shards, broken.recipe, visits, 1, 1))
    assert "Traceback" not in str(refusal.value)


def test_undistilled_students_see_the_views_that_the_cached_ones_see(world: World) -> None:
    config = training(world, 20)
    assert make_schedule(config, world.shards, 6) == make_schedule(config, world.shards, 6)
