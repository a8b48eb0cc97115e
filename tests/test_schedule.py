"""The order of training is a function of (seed, step): any world, any resume, every sample r times per cycle."""

from collections import Counter

import pytest

from pipeline.runtime.errors import UsageError
from pipeline.training.schedule import Schedule, lanes_of, windows
from pipeline.views.chance import Draws

BLOCKS = (8, 8, 8, 8, 8, 8, 5)  # a short, odd last block; N = 53 is prime


def schedule(**changes: object) -> Schedule:
    fields = {"seed": 3, "blocks": BLOCKS, "repeats": 3, "period": 6, "lanes": 8, "window": 2, "batch": 32}
    return Schedule(**(fields | changes))


def pairs_by_lane(plan: Schedule, lanes: range, start: int, stop: int) -> dict[int, list[tuple]]:
    """Every pair that steps start..stop-1 take, per lane: (block, view, pair)."""
    given: dict[int, list[tuple]] = {lane: [] for lane in lanes}
    for window in windows(plan, lanes, start, stop):
        for visit, view, pair in window.order.tolist():
            chosen = window.visits[visit]
            given[window.lane].append((chosen.block, chosen.first_view + view, pair))
    count = (stop - start) * plan.pairs_per_step
    return {lane: pairs[:count] for lane, pairs in given.items()}


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_global_sequence_is_the_same_for_every_world_size_that_divides_the_lanes(world: int) -> None:
    plan = schedule()
    steps = 3 * plan.pairs_per_cycle // (plan.batch // 2)
    whole = pairs_by_lane(plan, range(8), 0, steps)
    parts: dict[int, list[tuple]] = {}
    for rank in range(world):
        parts |= pairs_by_lane(plan, lanes_of(rank, world, 8), 0, steps)
    assert parts == whole


def test_each_pair_of_each_block_comes_once_per_view_in_every_cycle() -> None:
    plan = schedule(lanes=1, window=1, batch=2)
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


def test_resume_at_any_step_continues_the_same_sequence() -> None:
    plan = schedule()
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
