"""Processes that read and draw visits ahead, in the order of need."""

import signal
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.shards import Shards
from pipeline.runtime.errors import PipelineError
from pipeline.views.draw import prepare
from pipeline.views.drawn import Drawn, draw_visit
from pipeline.views.recipe import Recipe
from pipeline.views.visits import Targets, Visit

Lookup = Callable[[Visit, Drawn], Targets | None]  # in a worker, so it is picklable: targets from a cache, or none


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
    shards: Shards,
    recipe: Recipe,
    visits: Iterator[Visit] | list[Visit],
    workers: int,
    lookup: Lookup | None = None,
    window: int = 1,
) -> Generator[Drawn, None, None]:
    """Draws visits in the given order, ``workers`` of them at a time (0: in this process), a ``window`` ahead at least:
    so that a reader that takes a whole window at once need not wait for its last visits."""
    prepare()  # before workers start, so that none of them compiles
    loader = DataLoader(
        _Visits(shards, recipe, lookup),
        batch_size=None,
        sampler=visits,  # any iterable of indices will do, and ours are visits
        num_workers=workers,
        prefetch_factor=_ahead(workers, window) if workers else None,
        collate_fn=_same,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # else a loader draws from the global one, and a resumed run drops other paths
    )
    for drawn in loader:
        if isinstance(drawn, PipelineError):
            raise drawn
        yield drawn


def _ahead(workers: int, window: int) -> int:
    """Visits drawn ahead by each worker."""
    return max(2, -(-window // workers))


def _same(item: Any) -> Any:
    return item


def _leave_signals_to_the_parent(worker: int) -> None:
    """Slurm signals the whole process group; a worker that dies of it takes the run down before it can save."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
