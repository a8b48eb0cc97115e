"""Visits on the device: packed bytes are copied from a slot of the ring, and drawn into a place on the device.

Both happen on the drawer's own stream, while the model runs. The slot is free when the copy is done. The place is free when
the work that was queued before its release is done.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.base import engine
from pipeline.base.engine import Unavailable
from pipeline.runtime.errors import RetryError, first_line
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.memory import free_memory
from pipeline.runtime.progress import say
from pipeline.views.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.views.device import Drawer
    from pipeline.views.packed import Packed

_SHARE = 0.25  # of the device's memory, for visits; the rest is for models, gradients and steps


def drawer(recipe: Recipe) -> "Drawer | None":
    """The drawer on this process's device, None where the CPU draws. Raises UsageError if DISTIL_ENGINE asks for a GPU and the
    device is none."""
    where = pick_device()
    if not engine.on_device(where.type):
        return None
    from pipeline.views.device import tested_drawer  # with numba, which need not be there for ``pil``

    return tested_drawer(recipe, where if where.type == "cuda" else torch.device("cpu"))


def memory(device: torch.device) -> int:
    """Bytes of the device that visits may take."""
    if device.type == "cpu":
        return int(_SHARE * free_memory())
    return int(_SHARE * torch.cuda.get_device_properties(device).total_memory)


@dataclass(frozen=True)
class Arrival:
    """A visit that is being drawn into ``place``. ``copied``: the event after which its packed bytes may be overwritten.
    ``done``: the event after which pixels and digests are there."""

    place: int
    pixels: torch.Tensor
    found: torch.Tensor  # int64 (r,) on the CPU
    copied: Any
    done: Any

    def digests(self) -> tuple[str, ...]:
        """xxh3_64 of each view, 16 hex digits. Waits until they are there."""
        self.done.synchronize()
        return tuple(f"{value:016x}" for value in self.found.numpy().view(np.uint64).tolist())


class Places:
    """``count`` places of ``size`` bytes on the drawer's device. Raises torch.cuda.OutOfMemoryError."""

    def __init__(self, drawer: "Drawer", count: int, size: int) -> None:
        self.drawer = drawer
        self.of_device = torch.get_device_module(drawer.device)
        self.places = torch.empty((count, size), dtype=torch.uint8, device=drawer.device)
        self.ring = torch.empty(0, dtype=torch.uint8)
        self.sent = torch.empty(0, dtype=torch.uint8, device=drawer.device)
        self.standing: torch.Tensor | None = None
        self.pinned = False
        self.free: deque[tuple[int, Any]] = deque((place, None) for place in range(count))
        self.last: Any = None
        self.views = self.drawn_by_workers = self.large = 0
        # Work queued on the current stream may still use the memory that torch has just handed out.
        drawer.stream.wait_stream(self.of_device.current_stream(drawer.device))

    def read_from(self, ring: torch.Tensor) -> None:
        """Page-locks ``ring``, all of the ring's memory, uint8, for copies to the device. If the driver refuses, each visit is
        first copied into a buffer that is page-locked."""
        self.ring = ring
        try:
            self.drawer.kernels.pin(ring.data_ptr(), ring.numel())
            self.pinned = True
        except Unavailable:
            self.standing = torch.empty(0, dtype=torch.uint8, pin_memory=True)

    def bring(self, packed: torch.Tensor, what: "Packed", repeats: int) -> Arrival:
        """Queues the copy of ``packed``, uint8 on the CPU, and its drawing; waits for neither. Raises RetryError."""
        place, released = self.free.popleft()
        size, stream = self.drawer.recipe.size, self.drawer.stream
        pixels = self.places[place, : what.views * 3 * size**2].view(repeats, -1, 3, size, size)
        source = self._locked(packed[: what.bytes])
        try:
            with self.of_device.stream(stream):
                if released is not None:
                    stream.wait_event(released)
                if self.sent.numel() < what.bytes:
                    self.sent = torch.empty(len(packed), dtype=torch.uint8, device=self.drawer.device)
                self.sent[: what.bytes].copy_(source, non_blocking=True)
                copied = self._event(stream)
                self.drawer.draw(self.sent, what, pixels)
                found = self.drawer.digests(pixels).to("cpu", non_blocking=self.drawer.device.type == "cuda")
                self.last = self._event(stream)
        except Unavailable as error:
            raise RetryError(
                f"{self.drawer.device}: drawing failed: {first_line(error)}; run the same command again, or set "
                f"DISTIL_ENGINE=kernels"
            ) from None
        return Arrival(place, pixels, found, copied, self.last)

    def release(self, place: int) -> None:
        """Gives the place back. Work that is already queued on the current stream may still read it."""
        self.free.append((place, self._event(self.of_device.current_stream(self.drawer.device))))

    def count(self, views: int, what: "Packed | None") -> None:
        """Adds the views of a visit to the counts that ``close`` reports. ``what``: None if a worker drew all of them."""
        self.views += views
        self.drawn_by_workers += views if what is None else what.drawn
        self.large += what.large if what is not None else 0

    def close(self) -> None:
        if self.drawn_by_workers:
            share = f"{self.drawn_by_workers:,} of {self.views:,} views ({self.drawn_by_workers / self.views:.1%})"
            why = (
                f"; {self.large:,} of them because an image much larger than its views is not sent"
                if self.large
                else ""
            )
            say(f"loader processes drew {share}, {self.drawer.device} the others{why}")
        if self.last is not None:
            self.last.synchronize()
        if self.pinned:
            self.drawer.kernels.unpin(self.ring.data_ptr())

    def _locked(self, packed: torch.Tensor) -> torch.Tensor:
        if self.standing is None:
            return packed
        if self.last is not None:
            self.last.synchronize()
        if self.standing.numel() < packed.numel():
            self.standing = torch.empty(2 * packed.numel(), dtype=torch.uint8, pin_memory=True)
        return self.standing[: packed.numel()].copy_(packed)

    def _event(self, stream: Any) -> Any:
        event = self.of_device.Event()
        event.record(stream)
        return event
