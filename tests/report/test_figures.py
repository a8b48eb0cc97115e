"""Figures: round ticks, names written and not run."""

from itertools import pairwise

from pipeline.report import figures


def test_ticks_are_round_and_inside_the_range() -> None:
    for low, high in ((0.0, 1.0), (2.3, 97.7), (1e-6, 1.2e-3), (-0.4, 0.9), (12.0, 12.2), (0.0, 300.0)):
        found = figures.ticks(low, high)
        assert 2 <= len(found) <= 6 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
        assert len({round(b - a, 9) for a, b in pairwise(found)}) == 1
        assert all(len(figures.short(value)) <= 7 for value in found)


def test_names_of_people_are_written_and_not_run() -> None:
    drawn = figures.lines({"<script>\u202e": [(0, 0), (1, 1)], "gone": []}, "x", "<y>", 'about "it" <b>')
    assert "<script>" not in drawn and "&lt;script&gt;\\u202e" in drawn and "<b>" not in drawn
    assert drawn.count("<path class=") == 1 and "s0" in drawn
