"""The ring of visit slots: one piece of anonymous shared memory that workers draw into and their parent reads.

It is allocated once, before any work, so that a lack of memory shows at once. Processes share it by its descriptor; it
has no name, so that a small /dev/shm does not limit it and a killed process leaves nothing behind. A slot holds a visit's
pixels and, behind them, all else that its worker sends: messages between processes are then small enough to be written
atomically, even by a worker that is killed meanwhile.
"""

import errno
import mmap
import os
import weakref
from collections import deque
from dataclasses import dataclass, replace
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from pipeline.data.shards import Shards
from pipeline.runtime import units
from pipeline.runtime.errors import UsageError
from pipeline.runtime.memory import free_memory
from pipeline.views.places import drawer, memory
from pipeline.views.recipe import Recipe

AHEAD = 2  # visits that each worker draws ahead, at least
_COPIED = 3  # slots whose visits are being copied to the device
_SHARE = 0.8  # of the memory that is free; the rest is for models, gradients and steps


@dataclass(frozen=True)
class RingSize:
    """``workers`` processes (0: this one) draw ``ahead`` visits each while the caller holds ``held``. ``pixels``,
    ``extra``: bytes per slot for pixels and for all else. ``wished``: slots that enough memory would allow. ``places``:
    visits that lie on the device, of ``place`` bytes each, 0 where the CPU draws."""

    workers: int
    ahead: int
    held: int
    pixels: int
    extra: int
    wished: int
    places: int = 0
    place: int = 0

    @property
    def all_placed(self) -> bool:
        """Whether all visits lie on the device, those that are held and at least one ahead; else some stay in the ring."""
        return self.places > self.held

    @property
    def busy(self) -> int:
        """Slots beside those of the workers: visits that are held, or copied to the device."""
        return (0 if self.all_placed else self.held) + (_COPIED if self.places else 0)

    @property
    def slots(self) -> int:
        return self.workers * self.ahead + self.busy

    @property
    def slot(self) -> int:
        """Bytes of one slot, a whole number of pages."""
        return -(-(self.pixels + self.extra) // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def short(self) -> bool:
        return self.slots < self.wished

    def __str__(self) -> str:
        short = f"; memory is short, {self.wished} visits would keep the workers busier" if self.short else ""
        there = f"; {self.places} visits on the device: {units.size(self.places * self.place)}" if self.places else ""
        return (
            f"ring of {self.slots} visits of {units.size(self.slot)}: {units.size(self.slots * self.slot)} of shared memory "
            f"({self.busy} in work, {self.workers} worker(s) x {self.ahead} ahead){there}{short}"
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
    pixels = place = rows * 3 * recipe.size**2
    places = 0
    if made := drawer(recipe):
        places = min(2 * held + 1, memory(made.device) // place)
        pixels = made.room(shards, repeats) if places else pixels
    ahead = min(ahead, AHEAD) if places > held else ahead
    wanted = RingSize(workers, ahead if workers else 0, held, pixels, extra, 0, places, place)
    wanted = replace(wanted, wished=wanted.slots)
    free = free_memory() if free is None else free
    room = int(_SHARE * free) // wanted.slot - wanted.busy  # visits that may be drawn ahead
    if room < (least := 1 if workers else 0):
        least += wanted.busy
        raise UsageError(
            f"views: {least} visits of {units.size(wanted.slot)} ({units.size(least * wanted.slot)}) must "
            f"fit into {100 * _SHARE:.0f} % of the memory that is free, {units.size(free)} here; lower lanes, window, "
            f"repeats or data.block, or run where there is more memory"
        )
    if not workers:
        return wanted
    fewer = min(workers, room)
    return replace(wanted, workers=fewer, ahead=min(ahead, room // fewer))


class Ring:
    """The slots of ``size``. The parent takes and frees slots; the workers that get the ring write to them."""

    def __init__(self, size: RingSize, descriptor: int | None = None) -> None:
        """Raises UsageError where the system refuses so much memory."""
        self.size = size
        try:
            self._descriptor = os.memfd_create("views") if descriptor is None else descriptor
            if descriptor is None:
                os.ftruncate(self._descriptor, size.slots * (size.slot + 1))
            memory = mmap.mmap(self._descriptor, size.slots * (size.slot + 1))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) == errno.EFBIG:  # ulimit -f, whatever the lanes
                raise
            raise UsageError(f"{size}: {error}; lower lanes, window or DISTIL_WORKERS") from None
        weakref.finalize(self, os.close, self._descriptor)
        self.memory = np.frombuffer(memory, np.uint8)
        self._slots = self.memory[: size.slots * size.slot].reshape(size.slots, size.slot)
        self._written = self.memory[size.slots * size.slot :]
        self._free = list(range(size.slots))
        self._copied: deque[tuple[int, Any]] = deque()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self.size, DupFd(self._descriptor))

    def take(self) -> int:
        while self._copied and (not self._free or self._copied[0][1].query()):
            slot, copied = self._copied.popleft()
            copied.synchronize()
            self.free(slot)
        assert self._free, "as many slots as visits that are drawn ahead or held"
        slot = self._free.pop()
        self._written[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        assert slot not in self._free, "a slot is freed once"
        self._free.append(slot)

    def free_after(self, slot: int, copied: Any) -> None:
        """Frees ``slot`` when the event ``copied`` is reached."""
        self._copied.append((slot, copied))

    def packed(self, slot: int) -> np.ndarray:
        """uint8: where a visit lies that the device draws."""
        return self._slots[slot, : self.size.pixels]

    def is_written(self, slot: int) -> bool:
        """Whether a worker has written to the slot since it was taken, so that its message is there or about to come."""
        return bool(self._written[slot])

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
        self._written[slot] = 1
        return len(content)

    def read(self, slot: int, length: int) -> bytes:
        """What ``write`` put there."""
        return self._slots[slot, self.size.pixels : self.size.pixels + length].tobytes()


def _attached(size: RingSize, descriptor: Any) -> Ring:
    return Ring(size, descriptor.detach())
