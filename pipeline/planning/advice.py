"""What may be done and should be known before a run: each a sentence that ``configure`` prints as a warning."""

import math
from collections.abc import Iterator

from pipeline.planning.pieces import Pieces
from pipeline.training.config import TrainConfig


def advice(pieces: Pieces) -> list[str]:
    """Views that are labelled and not read; views of an image that share their partners and stand in different steps."""
    return [*_unread(pieces), *_apart(pieces)]


def _unread(pieces: Pieces) -> Iterator[str]:
    """Caches of which no student reads all views. A student reads through its cache alike whether it has a live teacher
    beside it, and with few labels as with all."""
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
    """Blocks of the training split, None where ``data.expected`` does not tell, and the samples of a cycle's view that are
    in no pair, as a share: one where a shard's last block is odd."""
    data = pieces.data
    if data is None or data.expected is None:
        return None, 0.0
    samples = data.expected.train
    return -(-samples // data.block), (samples % data.block % 2) / samples


def views_read(training: TrainConfig, held: int, blocks: int | None, odd: float) -> int:
    """Views, of the ``held`` ones, that a training reads, from above.

    A cycle reads r views of every block, and an epoch is a share 1/r of a cycle. Lanes are up to a window ahead of the
    stream's mean, and a lane may have met fewer of the smaller blocks; where ``blocks`` is not known, up to a cycle.
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
