"""From visits to training batches: loader workers, windows, steps (layer L2).

Workers read and draw visits in the order of need; the process that trains keeps one window of W visits per lane,
labels visits that have no targets yet, and takes B/(2L) pairs per lane and step. The batches are a function of
(seed, step) alone: any number of workers, any world size that divides L.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.finish import Finishing, finish
from pipeline.runtime import PipelineError
from pipeline.schedule import Schedule, Visit, Window, windows
from pipeline.shards import Shards
from pipeline.targets import Targets
from pipeline.views import Recipe
from pipeline.visit import Drawn, draw_visit

Lookup = Callable[[Visit, Drawn], Targets | None]  # in a worker, so it is picklable: targets from a cache, or none
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


class _Visits(Dataset[Any]):
    """Map from a Visit to its Drawn; a refusal comes back as a value, so that its sentence stays one sentence."""

    def __init__(self, shards: Shards, recipe: Recipe, lookup: Lookup | None) -> None:
        self.shards, self.recipe, self.lookup = shards, recipe, lookup

    def __getitem__(self, visit: Visit) -> Drawn | PipelineError:
        try:
            block = self.shards.blocks[visit.block]
            drawn = draw_visit(self.shards, self.recipe, block, visit.first_view, visit.views)
            return replace(drawn, targets=self.lookup(visit, drawn)) if self.lookup else drawn
        except PipelineError as error:
            return error


def read_visits(
    shards: Shards, recipe: Recipe, visits: Iterator[Visit] | list[Visit], workers: int, lookup: Lookup | None = None
) -> Iterator[Drawn]:
    """Draws visits in the given order, ``workers`` of them at a time (0: in this process)."""
    loader = DataLoader(
        _Visits(shards, recipe, lookup),
        batch_size=None,
        sampler=visits,  # any iterable of indices will do, and ours are visits
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        collate_fn=_same,
        generator=torch.Generator(),  # else a loader draws from the global one, and a resumed run drops other paths
    )
    for drawn in loader:
        if isinstance(drawn, PipelineError):
            raise drawn
        yield drawn


def _same(item: Any) -> Any:
    return item


@dataclass(frozen=True)
class _Rows:
    """A visit with its r views flattened: row = view * n + sample."""

    pixels: torch.Tensor  # uint8 (r*n, 3, R, R)
    erase: torch.Tensor
    noise: torch.Tensor
    lam: torch.Tensor
    box: torch.Tensor
    labels: torch.Tensor
    pairs: torch.Tensor  # int64 (r, n//2, 2) as flat rows
    hard: torch.Tensor | None
    logits: torch.Tensor | None
    live: bool


def _flatten(drawn: Drawn, label: Label | None) -> _Rows:
    live = drawn.targets is None and label is not None
    targets = label(drawn) if live and label is not None else drawn.targets
    views, n = drawn.pixels.shape[:2]
    hard = torch.from_numpy(targets.hard.astype("int64")).flatten() if targets else None
    logits = torch.from_numpy(targets.logits).flatten(0, 1) if targets and targets.logits is not None else None
    return _Rows(
        pixels=drawn.pixels.flatten(0, 1),
        erase=torch.cat([plan.erase for plan in drawn.plan]),
        noise=torch.cat([plan.noise for plan in drawn.plan]),
        lam=torch.cat([plan.lam for plan in drawn.plan]),
        box=torch.cat([plan.box for plan in drawn.plan]),
        labels=drawn.labels.repeat(views),
        pairs=drawn.pairs + n * torch.arange(views)[:, None, None],
        hard=hard,
        logits=logits,
        live=live,
    )


class _Lane:
    """One lane's current window: its visits' rows and the pairs not yet given."""

    def __init__(self) -> None:
        self.rows: list[_Rows] = []
        self.order = torch.empty((0, 3), dtype=torch.int64)

    def fill(self, window: Window, skip: int, rows: list[_Rows]) -> None:
        self.rows, self.order = rows, torch.from_numpy(window.order[skip:])

    def take(self, pairs: int) -> list[tuple[_Rows, torch.Tensor, torch.Tensor]]:
        """Up to ``pairs`` pairs: per visit its rows, their flat rows (m,) and their places (m,) in what is taken."""
        order, self.order = self.order[:pairs], self.order[pairs:]
        taken = []
        for index in order[:, 0].unique().tolist():
            (places,) = (order[:, 0] == index).nonzero(as_tuple=True)
            flat = self.rows[index].pairs[order[places, 1], order[places, 2]].flatten()
            taken.append((self.rows[index], flat, (2 * places[:, None] + torch.arange(2)).flatten()))
        return taken


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

    ``lookup`` gives a visit's targets in its worker; ``label`` gives them here for visits where it gave none.
    Raises whatever refusal a worker met (IntegrityError with shard, block and view).
    """
    needed = (visit for window, _ in windows(schedule, lanes, start, stop) for visit in window.visits)
    drawn = read_visits(shards, recipe, needed, workers, lookup)
    coming = windows(schedule, lanes, start, stop)
    state = {lane: _Lane() for lane in lanes}
    for _ in range(start, stop):
        parts: list[tuple[_Rows, torch.Tensor, torch.Tensor]] = []
        filled = 0
        for lane in lanes:
            missing = schedule.pairs_per_step
            while missing:
                if not len(state[lane].order):
                    window, skip = next(coming)
                    assert window.lane == lane, "windows come in the order of need"
                    state[lane].rows = []  # frees the old window before the new one is held
                    state[lane].fill(window, skip, [_flatten(next(drawn), label) for _ in window.visits])
                taken = state[lane].take(missing)
                given = sum(len(flat) for _, flat, _ in taken)
                parts += [(rows, flat, filled + places) for rows, flat, places in taken]
                filled += given
                missing -= given // 2
        yield _assemble(parts, filled, recipe, device)


def _assemble(
    parts: list[tuple[_Rows, torch.Tensor, torch.Tensor]], size: int, recipe: Recipe, device: torch.device
) -> Batch:
    def gather(name: str) -> torch.Tensor:
        first = getattr(parts[0][0], name)
        whole = torch.empty((size, *first.shape[1:]), dtype=first.dtype, pin_memory=device.type == "cuda")
        for rows, flat, places in parts:
            whole[places] = getattr(rows, name)[flat]
        return whole

    partner = torch.arange(size) ^ 1  # rows 2i and 2i + 1 are a pair
    labels, lam = gather("labels"), gather("lam")
    plan = Finishing(gather("erase"), gather("noise"), partner, lam, gather("box"))
    pixels = gather("pixels").to(device, non_blocking=True)
    supervised, soft = parts[0][0].hard is not None, parts[0][0].logits is not None
    return Batch(
        images=finish(pixels, plan.to(device), recipe.mean, recipe.std, recipe.erase.mode),
        labels=labels.to(device),
        partner_labels=labels[partner].to(device),
        lam=lam.to(device),
        hard=gather("hard").to(device) if supervised else None,
        logits=gather("logits").to(device) if soft else None,
        live=sum(len(flat) for rows, flat, _ in parts if rows.live),
    )


def memory_needed(schedule: Schedule, lanes: range, size: int, workers: int) -> str:
    """One sentence about host memory: windows (W*r*b*3*R^2 bytes per lane) and visits in flight."""
    visit = schedule.repeats * max(schedule.blocks) * 3 * size * size
    windows_bytes, flight = len(lanes) * schedule.window * visit, 2 * workers * visit
    return (
        f"window memory: {windows_bytes / 1e9:.2f} GB ({len(lanes)} lane(s) x {schedule.window} visits of "
        f"{visit / 1e6:.1f} MB) + up to {flight / 1e9:.2f} GB in flight ({workers} workers)"
    )
