"""The harness of the benches: turns, medians, ratios, tables."""

from functools import partial

from bench.timing import compared, interleaved, medians, ratio


def test_ways_take_turns_forwards_and_backwards_and_warming_up_is_not_kept() -> None:
    calls: list[str] = []

    def way(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = interleaved({"a": partial(way, "a"), "b": partial(way, "b")}, 2, warm=1)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [3, 6], "b": [4, 5]}


def test_a_ratio_is_taken_round_by_round_so_that_a_slow_round_does_not_move_it() -> None:
    found = {"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 2.0]}
    assert ratio(found["fast"], found["slow"]) == 0.5 and medians(found) == {"slow": 4.0, "fast": 2.0}
    assert compared(found, "s").splitlines() == [
        "|  | s | of slow |", "|---|---|---|", "| slow | 4 | 1.0000 |", "| fast | 2 | 0.5000 |",
    ]  # fmt: skip
