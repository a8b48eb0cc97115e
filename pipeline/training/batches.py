"""From visits to training batches: loader workers, windows, steps.

Workers read and draw visits in the order of need; the process that trains keeps one window of W visits per lane in the
ring or, where a device draws, on it, labels visits that have no targets yet, and takes B/(2L) pairs per lane and step. The
batches are a function of (seed, step) alone: any number of workers, any world size that divides L.

A view is copied once, from its slot into a tensor that is kept for the whole run: fresh memory costs a page fault for
every 4 kB, which took seven times as long as the copy itself. On a device its rows are gathered where they lie.
"""

import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.shards import Shards
from pipeline.runtime.machine import GRACE, median_seconds, world_size
from pipeline.training.schedule import Schedule, windows
from pipeline.views.choose import Targets
from pipeline.views.drawn import DrawnVisit
from pipeline.views.finish import FinishPlan, finish
from pipeline.views.recipe import Recipe
from pipeline.views.ring import AHEAD, RingSize, ring_size
from pipeline.views.tasks import Lookup
from pipeline.views.workers import VisitReader

# In the training process: starts the live teacher on a visit; the result waits for its targets.
Label = Callable[[DrawnVisit], Callable[[], Targets]]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, finished on the device; rows 2i and 2i + 1 are a pair. B' = its samples.

    ``lam``: share of a row's own label; ``partner_labels`` has 1 - lam. ``hard``, ``logits``: the teacher's answers on the
    mixed views, None without a teacher. ``live``: rows whose targets the live teacher gave. ``waited``: seconds spent
    waiting for views. No later batch changes these tensors.
    """

    images: torch.Tensor  # float32 (B', 3, R, R)
    labels: torch.Tensor  # int64 (B',)
    partner_labels: torch.Tensor  # int64 (B',)
    lam: torch.Tensor  # float32 (B',)
    hard: torch.Tensor | None  # int64 (B',)
    logits: torch.Tensor | None  # float32 (B', C)
    live: int
    waited: float = 0.0


@dataclass(frozen=True)
class _Rows:
    """A visit with its r views flattened: row = view * n + sample. ``fields``: what a step needs of its rows beside their
    pixels, (r*n, ...) each."""

    fields: dict[str, torch.Tensor]
    pairs: np.ndarray  # int64 (r, n//2, 2) as flat rows
    live: bool
    drawn: DrawnVisit


def _flatten(drawn: DrawnVisit, targets: Targets | None) -> _Rows:
    views, n = drawn.pixels.shape[:2]
    plan, live = drawn.plan, targets is not None and targets is not drawn.targets
    whole = {"erase": plan.erase, "noise": plan.noise, "lam": plan.lam, "box": plan.box}
    if targets is not None:
        whole["hard"] = torch.from_numpy(targets.hard.astype("int64"))
        if targets.logits is not None:
            whole["logits"] = torch.from_numpy(targets.logits)
    fields = {name: value.flatten(0, 1) for name, value in whole.items()}
    fields["labels"] = drawn.labels.repeat(views)
    return _Rows(fields, drawn.pairs.numpy() + n * np.arange(views)[:, None, None], live, drawn)


def _rows_of(visits: list[DrawnVisit], label: Label | None) -> list[_Rows]:
    """The rows of a window's visits; those without targets are all asked for before the first answer is waited for."""
    asked = [label(drawn) if label and drawn.targets is None else None for drawn in visits]
    return [_flatten(drawn, wait() if wait else drawn.targets) for drawn, wait in zip(visits, asked)]


class _Lane:
    """One lane's current window: its visits' rows and the pairs not yet given."""

    def __init__(self) -> None:
        self.rows: list[_Rows] = []
        self.order = np.empty((0, 3), np.int64)

    def give(self, pairs: int, step: "_Step") -> int:
        """Puts up to ``pairs`` pairs into ``step``, grouped by visit; how many it gave."""
        order, self.order = self.order[:pairs], self.order[pairs:]
        for index, rows in enumerate(self.rows):
            chosen = order[order[:, 0] == index]
            if len(chosen):
                step.put(rows, torch.from_numpy(rows.pairs[chosen[:, 1], chosen[:, 2]].reshape(-1)))
        return len(order)


class _Pool:
    """Standing tensors for the pixels of a step, and for the numbers of rows that a device gathers, taken in turn: one pair,
    or with a GPU two in pinned memory, so that one is filled while the other is copied; a pair is handed out again only when
    its copies are done. ``pixels`` is not allocated where all pixels are on the device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape, self.device, self.pinned = shape, device, device.type == "cuda"
        turns = 2 if self.pinned else 1
        self._turns, self._turn = itertools.cycle(range(turns)), 0
        self._pixels: dict[int, torch.Tensor] = {}
        self._numbers = [torch.empty(shape[0], dtype=torch.int64, pin_memory=self.pinned) for _ in range(turns)]
        self._copied: dict[int, torch.cuda.Event] = {}

    def turn(self) -> None:
        """Goes on to the next pair, which may be filled then."""
        self._turn = next(self._turns)
        if self._turn in self._copied:
            self._copied[self._turn].synchronize()

    @property
    def pixels(self) -> torch.Tensor:
        if self._turn not in self._pixels:
            self._pixels[self._turn] = torch.empty(self.shape, dtype=torch.uint8, pin_memory=self.pinned)
        return self._pixels[self._turn]

    @property
    def numbers(self) -> torch.Tensor:
        return self._numbers[self._turn]

    def copied(self) -> None:
        """Call it right after the copies from this pair were queued."""
        if self.pinned:
            self._copied.setdefault(self._turn, torch.cuda.Event()).record()


class _Step:
    """The rows of one step. They are gathered as they are taken, so that a used-up window is freed before the next one is
    held; one ``index_select`` per visit and field costs an eighth of an indexed assignment. Pixels that lie on the device
    are gathered there."""

    def __init__(self, size: int, pool: _Pool) -> None:
        self.size, self.pool = size, pool
        self.filled = self.live = 0
        pool.turn()
        on_cpu = pool.device.type == "cpu"
        self.pixels = pool.pixels if on_cpu else torch.empty(pool.shape, dtype=torch.uint8, device=pool.device)
        self.whole: dict[str, torch.Tensor] = {}

    def put(self, rows: _Rows, flat: torch.Tensor) -> None:
        part = slice(self.filled, self.filled + flat.numel())
        self._put_pixels(rows.drawn.pixels.flatten(0, 1), flat, part)
        for name, source in rows.fields.items():
            if name not in self.whole:  # small, so a fresh tensor that the caller may keep
                shape = (self.size, *source.shape[1:])
                self.whole[name] = torch.empty(shape, dtype=source.dtype, pin_memory=self.pool.pinned)
            torch.index_select(source, 0, flat, out=self.whole[name][part])
        self.filled = part.stop
        self.live += rows.live * flat.numel()

    def _put_pixels(self, source: torch.Tensor, flat: torch.Tensor, part: slice) -> None:
        if source.device != self.pixels.device:
            self.pixels[part].copy_(torch.index_select(source, 0, flat, out=self.pool.pixels[part]), non_blocking=True)
            return
        if source.device.type != "cpu":
            flat = self.pool.numbers[part].copy_(flat).to(source.device, non_blocking=True)
        torch.index_select(source, 0, flat, out=self.pixels[part])

    def batch(self, recipe: Recipe, device: torch.device, waited: float = 0.0) -> Batch:
        assert self.filled == self.size, "a step is given whole"
        there = {name: value.to(device, non_blocking=True) for name, value in self.whole.items()}
        self.pool.copied()
        partner = torch.arange(self.size, device=device) ^ 1  # rows 2i and 2i + 1 are a pair
        plan = FinishPlan(there["erase"], there["noise"], partner, there["lam"], there["box"])
        return Batch(
            images=finish(self.pixels, plan, recipe),
            labels=there["labels"],
            partner_labels=there["labels"][partner],
            lam=there["lam"],
            hard=there.get("hard"),
            logits=there.get("logits"),
            live=self.live,
            waited=waited,
        )


@dataclass(frozen=True)
class Loader:
    """What this rank's batches are made of, by ``workers`` processes. ``lookup`` gives a visit's targets in its worker;
    ``label`` gives them here for visits without."""

    schedule: Schedule
    lanes: range
    shards: Shards
    recipe: Recipe
    device: torch.device
    workers: int
    lookup: Lookup | None = None
    label: Label | None = None

    def ring(self, free: int | None = None) -> RingSize:
        """The ring for W visits per lane and those drawn ahead, within ``free`` bytes (None: as measured). Raises UsageError
        where that is too little.

        All lanes may need their next window in the same step, so as many visits are drawn ahead as are held.
        """
        held = self.schedule.window * len(self.lanes)
        ahead = max(AHEAD, -(-held // self.workers)) if self.workers else 0
        return ring_size(self.shards, self.recipe, self.schedule.repeats, self.workers, held, ahead, free)

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps ``start .. stop - 1`` for the given lanes, in order.

        Raises a worker's refusal (IntegrityError with shard, block and view), and RetryError as VisitReader does. A single
        process that is told to stop ends its wait at once and can save; a rank waits GRACE seconds, since the other ranks
        need its share of the step.
        """
        pairs, size = self.schedule.pairs_per_step, self.recipe.size
        coming, ahead = itertools.tee(windows(self.schedule, self.lanes, start, stop))
        needed = (visit for window in ahead for visit in window.visits)
        rows = 2 * pairs * len(self.lanes)
        pool = _Pool((rows, 3, size, size), self.device)
        state = {lane: _Lane() for lane in self.lanes}
        waited, grace = 0.0, GRACE if world_size() > 1 else 0.0
        with VisitReader(self.shards, self.recipe, needed, self.ring(), self.lookup, grace) as reader:
            for _ in range(start, stop):
                reader.check()
                reader.draw_ahead()
                step = _Step(rows, pool)
                for lane in self.lanes:
                    held, missing = state[lane], pairs
                    while missing:
                        if not len(held.order):
                            window = next(coming)
                            assert window.lane == lane, "windows come in the order of need"
                            for used in held.rows:
                                reader.release(used.drawn)
                            held.rows = _rows_of([next(reader) for _ in window.visits], self.label)
                            held.order = window.order
                        missing -= held.give(missing, step)
                yield step.batch(self.recipe, self.device, reader.waited - waited)
                waited = reader.waited


def seconds_per_row(drawn: DrawnVisit, size: int, recipe: Recipe, device: torch.device) -> float:
    """Seconds of this process per row of a batch of ``size`` rows, gathered and finished: a median, with the
    pairs of ``drawn`` over and over. What a GPU does meanwhile is not waited for, but for its copy."""
    rows, pool = _flatten(drawn, drawn.targets), _Pool((size, 3, recipe.size, recipe.size), device)
    flat = torch.from_numpy(np.resize(rows.pairs, size))

    def gather() -> None:
        step = _Step(size, pool)
        step.put(rows, flat)
        step.batch(recipe, device)

    return median_seconds(gather, warm=2) / size
