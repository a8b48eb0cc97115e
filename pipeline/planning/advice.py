"""Warnings of ``configure``: what is allowed, and should be known before a run."""

import math
from collections.abc import Iterator

from pipeline.planning.pieces import Pieces
from pipeline.training.config import TrainConfig


def advice(pieces: Pieces) -> list[str]:
    """Warnings of views that are labelled and never read, and of an image's views that share partners in different steps."""
    return [*_unread(pieces), *_apart(pieces)]


def _unread(pieces: Pieces) -> Iterator[str]:
    """Caches of which no student reads all views. A live teacher or few labels do not change how many views are read."""
    for name, cache in pieces.caches.items():
        readers = {key: pieces.trainings[of.training] for key, of in pieces.students.items() if of.cache == name}
        if not readers:
            yield (
                f"caches.{name}: no student reads it, so its {cache.views} views are labelled for nothing unless another "
                f"student reads them"
            )
            continue
        read = {key: views_read(training, cache.views, *_blocks(pieces)) for key, training in readers.items()}
        most = max(read, key=lambda key: read[key])
        if read[most] < cache.views:
            how, rest = readers[most], cache.views - read[most]
            yield (
                f"caches.{name}: holds V = {cache.views} views, and its students read at most {read[most]} of them "
                f"(students.{most} reads most: epochs {how.epochs:g}, period {how.period or cache.views}, repeats r = "
                f"{how.repeats}); the other {rest} are labelled for nothing unless another student reads them"
            )


def _blocks(pieces: Pieces) -> tuple[int | None, float]:
    """The number of blocks of the training split (None where ``data.expected`` is not given), and the share of its samples
    that have no partner: one sample, where the last block is odd."""
    data = pieces.data
    if data is None or data.expected is None:
        return None, 0.0
    samples = data.expected.train
    return -(-samples // data.block), (samples % data.block % 2) / samples


def views_read(training: TrainConfig, held: int, blocks: int | None, odd: float) -> int:
    """An upper bound on how many of the ``held`` views a training reads.

    A cycle reads r views of every block, and an epoch is a share 1/r of a cycle. A lane may be ahead of the mean by a
    window and by the smaller blocks that it has met; where ``blocks`` is not known, by a cycle.
    """
    repeats = training.repeats
    ahead = training.lanes * (training.window + 1) / blocks if blocks else 1.0
    cycles = math.ceil(training.epochs / repeats / (1 - odd) + ahead)
    return min(held, training.period or held, repeats * cycles)


def _apart(pieces: Pieces) -> Iterator[str]:
    told: set[tuple[str, int, str, int]] = set()
    for student in pieces.students.values():
        shared, repeats = pieces.recipes[student.recipe].shared_pairing, pieces.trainings[student.training].repeats
        if 1 not in (shared, repeats) and shared != repeats:
            told.add((student.recipe, shared, student.training, repeats))
    for recipe, shared, training, repeats in sorted(told):
        yield (
            f"recipes.{recipe}.shared_pairing is {shared} and trainings.{training}.repeats is {repeats}: views of an image have "
            f"the same partners and do not stand together in one step; set shared_pairing to {repeats}, or to 1"
        )
