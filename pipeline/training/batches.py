"""From visits to training batches: loader workers, windows, steps.

Workers read and draw visits in the order of need; the process that trains keeps one window of W visits per lane, labels
visits that have no targets yet, and takes B/(2L) pairs per lane and step. The batches are a function of (seed, step)
alone: any number of workers, any world size that divides L.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pipeline.data.shards import Shards
from pipeline.training.schedule import Schedule, windows
from pipeline.views.drawn import Drawn
from pipeline.views.finish import Finishing, finish
from pipeline.views.recipe import Recipe
from pipeline.views.visits import Targets
from pipeline.views.workers import Lookup, _ahead, read_visits

Label = Callable[[Drawn], Targets]  # in the training process: targets from the live teacher


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, finished on the device; rows 2i and 2i + 1 are a pair. B' = its samples.

    ``lam`` is a row's own share, ``partner_labels`` has the rest. ``hard`` and ``logits`` are the teacher's answers on
    the mixed views, None without a teacher. ``live``: rows whose targets the live teacher gave.
    """

    images: torch.Tensor  # float32 (B', 3, R, R)
    labels: torch.Tensor  # int64 (B',)
    partner_labels: torch.Tensor  # int64 (B',)
    lam: torch.Tensor  # float32 (B',)
    hard: torch.Tensor | None  # int64 (B',)
    logits: torch.Tensor | None  # float32 (B', C)
    live: int


@dataclass(frozen=True)
class _Rows:
    """A visit with its r views flattened: row = view * n + sample. ``fields``: what a step needs of its rows, (r*n, ...)
    each."""

    fields: dict[str, torch.Tensor]
    pairs: torch.Tensor  # int64 (r, n//2, 2) as flat rows
    live: bool


def _flatten(drawn: Drawn, label: Label | None) -> _Rows:
    views, n = drawn.pixels.shape[:2]
    plan, targets, live = drawn.plan, drawn.targets, False
    if targets is None and label is not None:
        targets, live = label(drawn), True
    whole = {"pixels": drawn.pixels, "erase": plan.erase, "noise": plan.noise, "lam": plan.lam, "box": plan.box}
    if targets is not None:
        whole["hard"] = torch.from_numpy(targets.hard.astype("int64"))
        if targets.logits is not None:
            whole["logits"] = torch.from_numpy(targets.logits)
    fields = {name: value.flatten(0, 1) for name, value in whole.items()}
    fields["labels"] = drawn.labels.repeat(views)
    return _Rows(fields, drawn.pairs + n * torch.arange(views)[:, None, None], live)


class _Lane:
    """One lane's current window: its visits' rows and the pairs not yet given."""

    def __init__(self) -> None:
        self.rows: list[_Rows] = []
        self.order = torch.empty((0, 3), dtype=torch.int64)

    def give(self, pairs: int, step: "_Step") -> int:
        """Puts up to ``pairs`` pairs into ``step``, grouped by visit; how many it gave."""
        order, self.order = self.order[:pairs], self.order[pairs:]
        for index in order[:, 0].unique().tolist():
            chosen = order[order[:, 0] == index]
            step.put(self.rows[index], self.rows[index].pairs[chosen[:, 1], chosen[:, 2]].flatten())
        return len(order)


class _Step:
    """The rows of one step. They are copied as they are taken, so that a used-up window is freed before the next one is
    held; one ``index_select`` per visit and field costs an eighth of an indexed assignment."""

    def __init__(self, size: int, pinned: bool) -> None:
        self.size, self.pinned = size, pinned
        self.filled = self.live = 0
        self.whole: dict[str, torch.Tensor] = {}

    def put(self, rows: _Rows, flat: torch.Tensor) -> None:
        stop = self.filled + len(flat)
        for name, source in rows.fields.items():
            if name not in self.whole:
                shape = (self.size, *source.shape[1:])
                self.whole[name] = torch.empty(shape, dtype=source.dtype, pin_memory=self.pinned)
            torch.index_select(source, 0, flat, out=self.whole[name][self.filled : stop])
        self.filled = stop
        self.live += rows.live * len(flat)

    def batch(self, recipe: Recipe, device: torch.device) -> Batch:
        assert self.filled == self.size, "a step is given whole"
        there = {name: value.to(device, non_blocking=True) for name, value in self.whole.items()}
        partner = torch.arange(self.size, device=device) ^ 1  # rows 2i and 2i + 1 are a pair
        plan = Finishing(there["erase"], there["noise"], partner, there["lam"], there["box"])
        return Batch(
            images=finish(there["pixels"], plan, recipe),
            labels=there["labels"],
            partner_labels=there["labels"][partner],
            lam=there["lam"],
            hard=there.get("hard"),
            logits=there.get("logits"),
            live=self.live,
        )


def batches(
    schedule: Schedule,
    lanes: range,
    start: int,
    stop: int,
    shards: Shards,
    recipe: Recipe,
    device: torch.device,
    workers: int,
    lookup: Lookup | None = None,
    label: Label | None = None,
) -> Iterator[Batch]:
    """The batches of steps ``start .. stop - 1`` for the given lanes, in order.

    ``lookup`` gives a visit's targets in its worker; ``label`` gives them here for visits where it gave none. Raises
    whatever refusal a worker met (IntegrityError with shard, block and view).
    """
    coming, ahead = itertools.tee(windows(schedule, lanes, start, stop))
    needed = (visit for window in ahead for visit in window.visits)
    # Lanes come to the end of their windows in the same step: the next window of each is to be there.
    drawn = read_visits(shards, recipe, needed, workers, lookup, schedule.window * len(lanes))
    state = {lane: _Lane() for lane in lanes}
    for _ in range(start, stop):
        step = _Step(2 * schedule.pairs_per_step * len(lanes), device.type == "cuda")
        for lane in lanes:
            held, missing = state[lane], schedule.pairs_per_step
            while missing:
                if not len(held.order):
                    window = next(coming)
                    assert window.lane == lane, "windows come in the order of need"
                    held.rows.clear()
                    held.rows.extend(_flatten(next(drawn), label) for _ in window.visits)
                    held.order = torch.from_numpy(window.order)
                missing -= held.give(missing, step)
        yield step.batch(recipe, device)


def memory_needed(schedule: Schedule, lanes: range, size: int, workers: int) -> str:
    """One sentence about host memory: windows (W*r*b*3*R^2 bytes per lane) and visits in flight."""
    visit = schedule.repeats * max(schedule.blocks) * 3 * size * size
    flight = workers * _ahead(workers, schedule.window * len(lanes)) * visit if workers else 0
    windows_bytes = len(lanes) * schedule.window * visit
    return (
        f"window memory: {windows_bytes / 1e9:.2f} GB ({len(lanes)} lane(s) x {schedule.window} visits of "
        f"{visit / 1e6:.1f} MB) + up to {flight / 1e9:.2f} GB in flight in /dev/shm ({workers} workers)"
    )
