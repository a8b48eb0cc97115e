"""What a loader process does with a visit: it reads it, and draws it or packs it for the device, into its slot of the ring.

If that raises, one sentence is sent in place of the visit.
"""

import ctypes
import multiprocessing
import os
import pickle
import signal
import traceback
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.data.shards import Block, Shards
from pipeline.runtime.errors import IntegrityError, PipelineError, RetryError, first_line
from pipeline.runtime.system_errors import explain
from pipeline.views.chance import Draws
from pipeline.views.choose import Targets, Visit
from pipeline.views.drawn import DrawnVisit, draw_visit, pack_visit
from pipeline.views.finish import FinishPlan
from pipeline.views.recipe import Recipe
from pipeline.views.ring import Ring

if TYPE_CHECKING:
    from pipeline.views.packed import Packed

Task = tuple[int, Visit, bool]  # slot, visit, whether to pack it for the device
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Lookup(Protocol):
    """Looks up what is known of a visit beforehand. Workers call it, so it must be picklable; ``refuse`` is called in the process
    that takes the visits."""

    def __call__(self, visit: Visit, block: Block) -> tuple[Targets | None, tuple[str, ...]]:
        """The visit's targets, or None, and the digests that its views must have; () if they are not compared."""

    def refuse(self, drawn: DrawnVisit) -> None:
        """Raises the error for a visit whose digests differ."""


@dataclass(frozen=True)
class AlsoOnCpu:
    """A ``Lookup`` for visits that a device draws: of one visit in ``every``, chosen by its number, a worker draws the views as
    well, so that the digests are compared."""

    shards: Shards
    recipe: Recipe
    every: int = 64

    def __call__(self, visit: Visit, block: Block) -> tuple[None, tuple[str, ...]]:
        if not Draws("also on cpu", visit.block, visit.first_view).chance(1 / self.every):
            return None, ()
        return None, draw_visit(self.shards, self.recipe, block, visit.first_view, visit.repeats).digests

    def refuse(self, drawn: DrawnVisit) -> None:
        raise IntegrityError(
            f"shard {self.shards.names[drawn.block.shard]}, block {drawn.block.index}, views from {drawn.first_view} on: "
            f"{drawn.pixels.device} draws other pixels than the CPU; set DISTIL_ENGINE=kernels"
        )


@dataclass(frozen=True)
class Failure:
    """An error of a worker as plain data, which any process can unpickle."""

    kind: type[PipelineError]
    text: str


class Visits(Dataset[Any]):
    """Draws or packs a visit into its slot, and gives (slot, visit, number of bytes written behind the pixels)."""

    def __init__(self, shards: Shards, recipe: Recipe, ring: Ring, lookup: Lookup | None) -> None:
        self.shards, self.recipe, self.ring, self.lookup = shards, recipe, ring, lookup

    def __getitem__(self, task: Task) -> tuple[int, Visit, int]:
        slot, visit, pack = task
        try:
            content = pickle.dumps(self._make(slot, visit, pack), pickle.HIGHEST_PROTOCOL)
            return slot, visit, self.ring.write(slot, content)
        except PipelineError as error:
            failure = Failure(_base(type(error)), str(error))
        except MemoryError:
            failure = Failure(RetryError, f"{self._place(visit)}: out of memory; set DISTIL_WORKERS lower")
        except Exception as error:  # any error becomes one sentence; a traceback of another process helps nobody
            last = traceback.extract_tb(error.__traceback__)[-1]
            what = f"drawing failed: {type(error).__name__}: {first_line(error)} ({last.filename}:{last.lineno})"
            refusal = explain(error, {}) or RetryError(what)
            failure = Failure(type(refusal), f"{self._place(visit)}: {refusal}")
        return slot, visit, self.ring.write(slot, pickle.dumps(failure))

    def _place(self, visit: Visit) -> str:
        block = self.shards.blocks[visit.block]
        return f"{self.shards.names[block.shard]}, block {block.index}, views from {visit.first_view} on"

    def _make(self, slot: int, visit: Visit, pack: bool) -> "Content":
        block, packed = self.shards.blocks[visit.block], None
        where = (self.shards, self.recipe, block, visit.first_view, visit.repeats)
        if pack:
            drawn, packed = pack_visit(*where, self.ring.packed(slot))
        else:
            drawn = draw_visit(*where, self.ring.pixels(slot, visit.repeats, block.samples, self.recipe.size))
        targets, expected = self.lookup(visit, block) if self.lookup else (None, ())
        plan = tuple(getattr(drawn.plan, field.name).numpy() for field in fields(FinishPlan))
        return Content(plan, drawn.pairs.numpy(), drawn.labels.numpy(), drawn.digests, targets, expected, packed)


@dataclass(frozen=True)
class Content:
    """All of a visit but its pixels, as arrays, because they pickle faster than tensors. ``expected``: the digests that it must
    have, () if they are not compared. ``packed``: the layout of its slot, None if the slot holds pixels."""

    plan: tuple[np.ndarray, ...]
    pairs: np.ndarray
    labels: np.ndarray
    digests: tuple[str, ...]
    targets: Targets | None
    expected: tuple[str, ...]
    packed: "Packed | None" = None

    def visit(self, block: Block, first_view: int) -> DrawnVisit:
        return DrawnVisit(
            block=block,
            first_view=first_view,
            pixels=torch.empty(0, dtype=torch.uint8),
            plan=FinishPlan(*map(torch.from_numpy, self.plan)),
            pairs=torch.from_numpy(self.pairs),
            labels=torch.from_numpy(self.labels),
            digests=self.digests,
            targets=self.targets,
        )


def _base(kind: type[PipelineError]) -> type[PipelineError]:
    """The nearest base class that runtime.errors defines, which any process can unpickle."""
    return next(base for base in kind.__mro__ if base.__module__ == PipelineError.__module__)


def leave_all_to_the_parent(worker: int) -> None:
    """Ignores the signals that Slurm sends to the whole process group, so that the parent can save. PDEATHSIG kills the worker
    when its parent dies, even if the worker is stopped or waits for a disk."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before PDEATHSIG was set
        os._exit(1)
