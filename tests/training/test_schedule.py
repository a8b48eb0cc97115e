"""The order of training is a function of (seed, step): any world, any resume, every sample r times per cycle."""

import random
from collections import Counter

import numpy as np
import pytest
from timm.data.distributed_sampler import RepeatAugSampler

from pipeline.runtime.errors import UsageError
from pipeline.training.schedule import Schedule, lanes_of, period, windows
from pipeline.views.chance import Draws
from pipeline.views.pairs import pair
from pipeline.views.recipe import Recipe

BLOCKS = (8, 8, 8, 8, 8, 8, 5)  # a short, odd last block; N = 53 is prime


def schedule(**changes: object) -> Schedule:
    fields = {"seed": 3, "blocks": BLOCKS, "repeats": 3, "period": 6, "lanes": 8, "window": 2, "batch": 32}
    return Schedule(**(fields | changes))


def pairs_by_lane(plan: Schedule, lanes: range, start: int, stop: int) -> dict[int, list[tuple]]:
    """Every pair that steps start..stop-1 take, per lane: (block, view, pair)."""
    given: dict[int, list[tuple]] = {lane: [] for lane in lanes}
    for window in windows(plan, lanes, start, stop):
        for visit, view, mates in window.order.tolist():
            chosen = window.visits[visit]
            given[window.lane].append((chosen.block, chosen.first_view + view, mates))
    count = (stop - start) * plan.pairs_per_step
    return {lane: pairs[:count] for lane, pairs in given.items()}


TOGETHER = {"together": True, "batch": 48}


@pytest.mark.parametrize("changes", [{}, TOGETHER], ids=["apart", "together"])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_global_sequence_is_the_same_for_every_world_size_that_divides_the_lanes(world: int, changes: dict) -> None:
    plan = schedule(**changes)
    steps = 3 * plan.pairs_per_cycle // (plan.batch // 2)
    whole = pairs_by_lane(plan, range(8), 0, steps)
    parts: dict[int, list[tuple]] = {}
    for rank in range(world):
        parts |= pairs_by_lane(plan, lanes_of(rank, world, 8), 0, steps)
    assert parts == whole


@pytest.mark.parametrize("changes", [{"batch": 2}, {"together": True, "batch": 6}], ids=["apart", "together"])
def test_each_pair_of_each_block_comes_once_per_view_in_every_cycle(changes: dict) -> None:
    plan = schedule(lanes=1, window=1, **changes)
    per_cycle = plan.pairs_per_cycle
    taken = pairs_by_lane(plan, range(1), 0, 3 * per_cycle)[0]
    for cycle in range(3):
        found = Counter(taken[cycle * per_cycle : (cycle + 1) * per_cycle])
        first = cycle * 3 % 6
        expected = {
            (block, first + view, pair)
            for block, samples in enumerate(BLOCKS)
            for view in range(3)
            for pair in range(samples // 2)
        }
        assert set(found) == expected
        assert set(found.values()) == {1}


@pytest.mark.parametrize("changes", [{}, TOGETHER], ids=["apart", "together"])
def test_resume_at_any_step_continues_the_same_sequence(changes: dict) -> None:
    plan = schedule(**changes)
    steps = 60
    whole = pairs_by_lane(plan, range(8), 0, steps)
    for start in (Draws("starts", i).below(steps) for i in range(50)):
        rest = pairs_by_lane(plan, range(8), start, steps)
        for lane in range(8):
            assert rest[lane] == whole[lane][start * plan.pairs_per_step :]


def test_windows_shuffle_across_visits_and_differ_between_seeds() -> None:
    one, two = schedule().make_window(0, 0), schedule(seed=4).make_window(0, 0)
    assert one.order.tolist() != sorted(one.order.tolist())
    assert {visit for visit, _, _ in one.order.tolist()} == {0, 1}
    assert one.visits != two.visits or one.order.tolist() != two.order.tolist()


def test_views_run_through_the_period_and_start_over() -> None:
    plan = schedule()
    assert [plan.visit(cycle * len(BLOCKS)).first_view for cycle in range(4)] == [0, 3, 0, 3]


def test_a_step_of_broken_pairs_is_no_schedule() -> None:
    with pytest.raises(AssertionError, match="LoopConfig refuses any other batch"):
        schedule(batch=30)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"period": 7}, "period K = 7 views is no multiple of training.repeats r = 3"),
        ({"blocks": (1, 1)}, "no block with at least two samples"),
    ],
)
def test_impossible_schedules_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        schedule(**changes)


def test_a_world_that_does_not_divide_the_lanes_is_refused_with_the_ones_that_do() -> None:
    with pytest.raises(
        UsageError, match=r"world size 3 does not divide training.lanes = 8; start 1, 2, 4, 8 processes"
    ):
        lanes_of(0, 3, 8)


def test_more_batch_than_data_is_refused() -> None:
    with pytest.raises(UsageError, match="no step at all"):
        schedule(batch=64).steps(0.5)


def test_views_together_need_room_for_all_of_an_image_in_a_step() -> None:
    assert schedule(together=True, batch=48).pairs_per_step == 3
    with pytest.raises(UsageError, match=r"2 pairs per lane and step, fewer than repeats r = 3.*take at most 5 lanes"):
        schedule(together=True, batch=32)


def images_of_steps(plan: Schedule, steps: int, recipe: Recipe) -> list[np.ndarray]:
    """The samples of each step, both of every pair, as the views' own pairing has them."""
    given = pairs_by_lane(plan, range(plan.lanes), 0, steps)
    partners = {
        (b, v): pair(recipe, str(b), v, plan.blocks[b]).pairs for b, v in {p[:2] for l in given.values() for p in l}
    }
    rows = {lane: [partners[b, v][p] + 256 * b for b, v, p in pairs] for lane, pairs in given.items()}
    each = plan.pairs_per_step
    return [np.concatenate([np.ravel(rows[lane][s * each : (s + 1) * each]) for lane in rows]) for s in range(steps)]


def with_sibling(batch: np.ndarray) -> float:
    counts = Counter(batch.tolist())
    return sum(count for count in counts.values() if count > 1) / len(batch)


def test_repeated_views_stand_in_one_step_and_an_epoch_shows_as_many_images_as_deits_sampler() -> None:
    samples, batch, ranks = 128 * 256, 1024, 8
    sampler = [list(RepeatAugSampler(range(samples), ranks, rank)) for rank in range(ranks)]
    theirs = [np.concatenate([own[i : i + batch // ranks] for own in sampler]) for i in range(0, 4096, batch // ranks)]
    plan = Schedule(0, (256,) * 128, 3, 300, lanes=8, window=4, batch=batch, together=True)
    ours = images_of_steps(plan, plan.steps_per_epoch(), Recipe(seed=0, size=224, shared_pairing=3))
    assert np.mean([with_sibling(rows) for rows in ours]) > 0.985  # 99.0 %: the last of a step may be a seam
    assert min(with_sibling(rows) for rows in ours) > 0.95
    unique = [np.mean([len(set(rows.tolist())) / batch for rows in way]) for way in (ours, theirs)]
    assert unique[0] == pytest.approx(0.344, abs=0.004) and unique[1] == pytest.approx(1 / 3, abs=0.004)
    epoch = [len(set(np.concatenate(way).tolist())) / samples for way in (ours, theirs)]
    assert epoch[0] == pytest.approx(epoch[1], rel=0.05), "images per epoch"
    apart = images_of_steps(Schedule(0, (256,) * 128, 3, 300, 8, 4, batch), 4, Recipe(seed=0, size=224))
    assert with_sibling(apart[0]) < 0.2, "without the shared pairing they do not"


def test_the_period_is_what_is_asked_for_else_what_the_cache_promises_else_all_different() -> None:
    assert period(6, 12, 4, 3) == 6
    assert period(None, 15, 4, 3) == 15
    assert period(None, 0, 4, 3) == 12  # no cache: four cycles of three views


@pytest.mark.parametrize("seed", range(40))
def test_the_place_after_some_pairs_is_that_of_a_walk_over_the_windows(seed: int) -> None:
    """Odd and single blocks, windows that span cycles, more lanes than blocks."""
    chance = random.Random(seed)
    lanes = chance.choice([1, 2, 4, 8])
    made = Schedule(
        seed=seed,
        blocks=(*(chance.choice([1, 2, 3, 8, 9, 16]) for _ in range(chance.randint(1, 20))), 16),
        repeats=chance.choice([1, 3]),
        period=9,
        lanes=lanes,
        window=chance.randint(1, 6),
        batch=2 * lanes * chance.randint(1, 8),
    )
    start = chance.randint(0, 200)
    for lane in range(lanes):
        pairs, number = start * made.pairs_per_step, 0
        while pairs >= (size := len(made.make_window(lane, number).order)):
            pairs, number = pairs - size, number + 1
        first = next(windows(made, range(lane, lane + 1), start, start + 1))
        assert np.array_equal(first.order, made.make_window(lane, number).order[pairs:])
        assert first.visits == made.make_window(lane, number).visits
