"""The order of training: cycles, visits, lanes, windows and steps as pure functions of (seed, step).

A *visit* is one block in r consecutive views. Cycle c visits every block once, in a permutation keyed by (seed, c), in
views (c*r + i) mod K, i < r. The cycles form one endless stream of visits that is dealt in turn to L lanes. Each lane
shuffles its pairs inside windows of W visits; a step takes B/(2L) pairs from every lane. Ranks own whole lanes, so the
global sequence is the same for every world size that divides L and for every number of loader workers.

Repeated augmentation (Hoffer et al. 2020; DeiT uses r = 3) is the r views of a visit: they stand in one window. Where
the recipe gives those views the same partners (``together``), a lane shuffles groups of r pairs, so that an image's r
views stand in one step, at a seam in two: 99 % of the rows of a step of 1,024 over 8 lanes have a sibling beside them
and 34 % of its images are unique (DeiT: 99.9 % and a third). DeiT's RASampler repeats each index r times and then drops
all but N draws: an epoch shows 33.3 % of the images and after nine epochs 2.7 % were never seen; it is used only under
torchrun. Here an epoch shows a third of the images as well, three epochs show each exactly once in r views, and one
process trains as many do.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.base.constraints import require_period, require_together, require_world_size
from pipeline.runtime.errors import UsageError
from pipeline.views.chance import Draws
from pipeline.views.choose import Visit


@dataclass(frozen=True)
class Window:
    """W visits of one lane and the order of their pairs.

    ``order`` (pairs, 3) int64: visit in the window, view in the visit, pair of that view (row of ``Pairs.pairs``).
    """

    lane: int
    visits: tuple[Visit, ...]
    order: np.ndarray


@dataclass(frozen=True)
class Schedule:
    """What the order depends on. ``blocks``: samples of each block; letters as in CONTRIBUTING.md."""

    seed: int
    blocks: tuple[int, ...]
    repeats: int  # r
    period: int  # K
    lanes: int  # L
    window: int  # W
    batch: int  # B
    together: bool = False  # the r views of a pair stand in one step; their partners must be the same
    epoch_samples: int | None = None  # N that an epoch counts, where ``blocks`` hold only some of the samples

    def __post_init__(self) -> None:
        assert self.batch % (2 * self.lanes) == 0, "LoopConfig refuses any other batch"
        require_period(self.period, self.repeats)
        if self.together:
            require_together(self.batch, self.lanes, self.repeats)
        if self.pairs_per_cycle < 1:
            raise UsageError("the data set has no block with at least two samples, so no pair can be formed")

    @property
    def samples(self) -> int:
        """N of an epoch."""
        return sum(self.blocks) if self.epoch_samples is None else self.epoch_samples

    @property
    def pairs_per_step(self) -> int:
        """Pairs that each lane gives to a step, B/(2L)."""
        return self.batch // (2 * self.lanes)

    @property
    def pairs_per_cycle(self) -> int:
        return self.repeats * sum(samples // 2 for samples in self.blocks)

    def steps(self, epochs: float) -> int:
        """Steps of a training of ``epochs``: floor(epochs * N / B)."""
        steps = int(epochs * self.samples / self.batch)
        if steps < 1:
            raise UsageError(
                f"batch = {self.batch} is larger than {epochs} epochs of {self.samples} samples: no step at all"
            )
        return steps

    def steps_per_epoch(self) -> int:
        return max(1, self.samples // self.batch)

    def cycles(self, steps: int) -> int:
        """Cycles that ``steps`` steps touch; the default period of a live run is this times r."""
        return -(-steps * self.batch // (2 * self.pairs_per_cycle)) + 1

    def visit(self, position: int) -> Visit:
        """The visit at ``position`` of the endless stream."""
        cycle, place = divmod(position, len(self.blocks))
        block = int(_cycle_order(self.seed, cycle, len(self.blocks))[place])
        return Visit(block, cycle * self.repeats % self.period, self.repeats, cycle)

    def _visits(self, lane: int, number: int) -> tuple[Visit, ...]:
        first = number * self.window
        return tuple(self.visit(lane + self.lanes * (first + i)) for i in range(self.window))

    def make_window(self, lane: int, number: int) -> Window:
        """Window ``number`` of ``lane`` with the order of its pairs, keyed by (seed, lane, number)."""
        visits, rows = self._visits(lane, number), []
        for index, visit in enumerate(visits):
            view, pair = np.indices((self.repeats, self.blocks[visit.block] // 2))
            where = np.stack([np.full_like(view, index), view, pair], axis=2)  # (r, pairs, 3)
            # shuffled as one: the r views of a pair, or each by itself
            rows.append(where.swapaxes(0, 1) if self.together else where.reshape(-1, 1, 3))
        order = np.concatenate(rows)
        order = order[Draws(self.seed, "window", lane, number).permutation(len(order))]
        return Window(lane, visits, order.reshape(-1, 3))


@lru_cache(maxsize=64)
def _cycle_order(seed: int, cycle: int, blocks: int) -> np.ndarray:
    return Draws(seed, "cycle", cycle).permutation(blocks)


def lanes_of(rank: int, world_size: int, lanes: int, key: str = "training.lanes") -> range:
    """The lanes of one rank. Raises UsageError that names ``key`` if the world size does not divide the number of lanes."""
    require_world_size(world_size, lanes, key)
    share = lanes // world_size
    return range(rank * share, (rank + 1) * share)


def windows(schedule: Schedule, lanes: range, start: int, stop: int) -> Iterator[Window]:
    """The windows that steps ``start .. stop - 1`` of these lanes need, in the order of need; a lane's first one without the
    pairs of earlier steps."""
    step_pairs = schedule.pairs_per_step
    place = _places(schedule, lanes, start * step_pairs)
    have = dict.fromkeys(lanes, 0)  # pairs of earlier windows not yet given
    for _ in range(start, stop):
        for lane in lanes:
            while have[lane] < step_pairs:
                number, skip = place[lane]
                window = schedule.make_window(lane, number)
                yield replace(window, order=window.order[skip:])
                have[lane] += len(window.order) - skip
                place[lane] = number + 1, 0
            have[lane] -= step_pairs


def _places(schedule: Schedule, lanes: range, pairs: int) -> dict[int, tuple[int, int]]:
    """By lane (window, pairs into it) after ``pairs`` of its pairs: one walk over the cycles' sizes, no data is read.

    Visit i of a lane stands at position lane + L i of the stream, so L W positions in a row are one window of each lane.
    """
    count, halves = schedule.lanes * schedule.window, np.array(schedule.blocks, np.int64) // 2
    found: dict[int, tuple[int, int]] = {}
    given, number, rest = np.zeros(schedule.lanes, np.int64), 0, np.empty(0, np.int64)
    for cycle in itertools.count():
        order = _cycle_order(schedule.seed, cycle, len(halves))
        rest = np.concatenate([rest, schedule.repeats * halves[order]])
        rounds = len(rest) // count
        sizes = rest[: rounds * count].reshape(rounds, schedule.window, schedule.lanes).sum(1)
        ends = given + sizes.cumsum(0)  # (rounds, L): a lane's pairs up to the end of each window
        for lane in (lane for lane in lanes if lane not in found):
            window = int(np.searchsorted(ends[:, lane], pairs, side="right"))
            if window < rounds:
                found[lane] = number + window, pairs - int(ends[window, lane] - sizes[window, lane])
        if len(found) == len(lanes):
            break
        given, number, rest = given + sizes.sum(0), number + rounds, rest[rounds * count :]
    return found


def period(wanted: int | None, coverage: int, cycles: int, repeats: int) -> int:
    """K, the views that a student cycles through: the ``wanted`` number, else V of its cache (``coverage``), else always new
    ones."""
    return wanted or coverage or cycles * repeats
