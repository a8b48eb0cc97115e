"""Warnings: what is read by nobody, or stands apart, told with the figure."""

import re
from pathlib import Path

import pytest

from pipeline.planning.advice import advice, views_read
from pipeline.planning.params import compose
from pipeline.planning.pieces import parse_pieces
from pipeline.training.config import TrainConfig
from pipeline.training.schedule import Schedule, windows

CONFIGS = Path("configs")


TEACHER_BESIDE = [f"students.{name}.teacher=regnety_digits" for name in ("soft", "hard", "hard_token")]


@pytest.mark.parametrize(
    ("choices", "sentences"),
    [
        (["training.epochs=32"], []),  # eleven cycles in 3 views each are touched
        (
            ["training.epochs=18", "training.period=null"],
            ["caches.digits: holds V = 33 views, and its students read at most 21 of them .*period 33.* the other 12"],
        ),
        (["training.epochs=60", "training.period=15"], ["caches.digits: .* at most 15 of them .*epochs 60, period 15"]),
        (
            ["training.epochs=10", "training.labelled_per_class=5", *TEACHER_BESIDE],
            ["caches.digits: .* at most 15 of them"],
        ),
        (["data=folder", "training.epochs=5"], ["caches.photos: holds V = 30 views, .* at most 9 of them"]),
        (["student=plain"], ["caches.digits: no student reads it, so its 33 views"]),
        (
            ["recipe.shared_pairing=3", "training.repeats=11", "training.lanes=1"],
            ["recipes.digits.shared_pairing is 3 and trainings.digits.repeats is 11: .* set shared_pairing to 11"],
        ),
        (["recipe.shared_pairing=3", "training.repeats=1"], []),
        (["recipe.shared_pairing=3", "training.lanes=4"], []),
    ],
)
def test_views_that_nobody_reads_and_pairs_that_stand_apart_are_told(choices: list[str], sentences: list[str]) -> None:
    found = advice(parse_pieces(compose(CONFIGS, choices)))
    assert len(found) == len(sentences) and all(map(re.search, sentences, found)), found


def test_a_training_reads_no_more_views_than_its_warning_says() -> None:
    """By the schedule itself: 1,437 samples in blocks of 64, the last one odd, and small ones."""
    for epochs, repeats, lanes, window, blocks in (
        (18.0, 3, 8, 1, [64] * 22 + [29]), (32.0, 3, 8, 1, [64] * 22 + [29]), (9.0, 1, 2, 4, [64] * 8 + [1]),
    ):  # fmt: skip
        how = TrainConfig(epochs=epochs, batch=32, lanes=lanes, window=window, repeats=repeats)
        order = Schedule(0, tuple(blocks), repeats, 10**6 * repeats, lanes, window, 32)
        drawn = windows(order, range(lanes), 0, order.steps(epochs))
        seen = max(visit.first_view + repeats for one in drawn for visit in one.visits)
        most = views_read(how, 1000, len(blocks), (sum(blocks) % 2) / sum(blocks))
        assert seen <= most <= seen + repeats
