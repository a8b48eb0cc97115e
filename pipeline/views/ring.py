"""The ring of visit slots: one piece of anonymous shared memory that workers draw into and their parent reads.

It is allocated once, before any work, so that a lack of memory shows at once. Processes share it by its descriptor; it
has no name, so that a small /dev/shm does not limit it and a killed process leaves nothing behind. A slot holds a visit's
pixels and, behind them, all else that its worker sends: messages between processes are then small enough to be written
atomically, even by a worker that is killed meanwhile.
"""

import mmap
import os
import weakref
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from pipeline.data.shards import Shards
from pipeline.runtime import units
from pipeline.runtime.errors import UsageError
from pipeline.runtime.memory import free_memory
from pipeline.views.recipe import Recipe

AHEAD = 2  # visits that each worker draws ahead, at least
_SHARE = 0.8  # of the memory that is free; the rest is for models, gradients and steps


@dataclass(frozen=True)
class RingSize:
    """``workers`` processes (0: this one) draw ``ahead`` visits each while the caller holds ``held``. ``pixels``,
    ``extra``: bytes per slot for pixels and for all else. ``wished``: slots that enough memory would allow."""

    workers: int
    ahead: int
    held: int
    pixels: int
    extra: int
    wished: int

    @property
    def slots(self) -> int:
        return self.workers * self.ahead + self.held

    @property
    def slot(self) -> int:
        """Bytes of one slot, a whole number of pages."""
        return -(-(self.pixels + self.extra) // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def short(self) -> bool:
        return self.slots < self.wished

    def __str__(self) -> str:
        short = f"; memory is short, {self.wished} visits would keep the workers busier" if self.short else ""
        return (
            f"ring of {self.slots} visits of {units.size(self.slot)}: {units.size(self.slots * self.slot)} of shared memory "
            f"({self.held} in work, {self.workers} worker(s) x {self.ahead} ahead){short}"
        )


def ring_size(
    shards: Shards,
    recipe: Recipe,
    repeats: int,
    workers: int,
    held: int = 1,
    ahead: int = AHEAD,
    free: int | None = None,
) -> RingSize:
    """The ring for visits of r = ``repeats`` views, of which the caller holds ``held`` at once.

    Where the ``free`` memory (bytes; None: as measured) is too small, each worker draws fewer visits ahead, then fewer
    workers draw. Raises UsageError with the numbers if no visit fits beside those held.
    """
    rows = repeats * max(block.samples for block in shards.blocks)
    # Behind the pixels, per row: erase boxes, noise, partner, pair, lambda, box, label, hard label, logits; pickle's own.
    extra = rows * (16 * recipe.erase.count + 56 + 4 * len(shards.classes)) + 65_536
    pixels = rows * 3 * recipe.size**2
    wanted = RingSize(workers, ahead if workers else 0, held, pixels, extra, workers * ahead + held)
    free = free_memory() if free is None else free
    room = int(_SHARE * free) // wanted.slot - held  # visits that may be drawn ahead
    if room < (least := 1 if workers else 0):
        raise UsageError(
            f"views: {held + least} visits of {units.size(wanted.slot)} ({units.size((held + least) * wanted.slot)}) must "
            f"fit into {100 * _SHARE:.0f} % of the memory that is free, {units.size(free)} here; lower lanes, window, "
            f"repeats or data.block, or run where there is more memory"
        )
    if not workers:
        return wanted
    fewer = min(workers, room)
    return RingSize(fewer, min(ahead, room // fewer), held, pixels, extra, wanted.slots)


class Ring:
    """The slots of ``size``. The parent takes and frees slots; the workers that get the ring write to them."""

    def __init__(self, size: RingSize, descriptor: int | None = None) -> None:
        """Raises UsageError where the system refuses so much memory."""
        self.size = size
        try:
            self._descriptor = os.memfd_create("views") if descriptor is None else descriptor
            if descriptor is None:
                os.ftruncate(self._descriptor, size.slots * size.slot)
            memory = mmap.mmap(self._descriptor, size.slots * size.slot)
        except (OSError, OverflowError) as error:
            raise UsageError(f"{size}: {error}; lower lanes, window or DISTIL_WORKERS") from None
        weakref.finalize(self, os.close, self._descriptor)
        self._slots = np.frombuffer(memory, np.uint8).reshape(size.slots, size.slot)
        self._free = list(range(size.slots))

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self.size, DupFd(self._descriptor))

    def take(self) -> int:
        assert self._free, "as many slots as visits that are drawn ahead or held"
        return self._free.pop()

    def free(self, slot: int) -> None:
        assert slot not in self._free, "a slot is freed once"
        self._free.append(slot)

    def pixels(self, slot: int, views: int, samples: int, side: int) -> np.ndarray:
        """uint8 (r, n, 3, R, R): where the visit's views lie."""
        count = views * samples * 3 * side * side
        assert count <= self.size.pixels, "a slot has room for the largest block"
        return self._slots[slot, :count].reshape(views, samples, 3, side, side)

    def write(self, slot: int, content: bytes) -> int:
        """Puts ``content`` behind the slot's pixels; its length. Raises ValueError if there is no room for it."""
        if len(content) > self.size.slot - self.size.pixels:
            raise ValueError(
                f"{len(content)} bytes beside a visit's pixels, room for {self.size.slot - self.size.pixels}"
            )
        self._slots[slot, self.size.pixels : self.size.pixels + len(content)] = np.frombuffer(content, np.uint8)
        return len(content)

    def read(self, slot: int, length: int) -> bytes:
        """What ``write`` put there."""
        return self._slots[slot, self.size.pixels : self.size.pixels + length].tobytes()


def _attached(size: RingSize, descriptor: Any) -> Ring:
    return Ring(size, descriptor.detach())
