"""The GPU's half of drawing: packed bytes in, pixels of views and their digests out, on a stream of its own.

Before a drawer is used, it draws the views of the pixel canary. It is refused unless all of them have the CPU's bits. In tests
the same code runs on a CPU, with kernels that a C++ compiler built.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import xxhash

from pipeline.base.engine import Unavailable
from pipeline.data.shards import Shards
from pipeline.runtime.errors import first_line
from pipeline.runtime.progress import say
from pipeline.views import canary, draw, packed
from pipeline.views.choose import View
from pipeline.views.cuda import open_kernels
from pipeline.views.packed import Packed, Packer
from pipeline.views.recipe import Recipe

_BLOCKS, _THREADS = (
    4,
    256,
)  # blocks on each multiprocessor, threads in a block: what __launch_bounds__ in draw.cu allows
_ROOM = 4  # times R: crops whose longer side is longer need more memory per block, so fewer blocks run at once
_LEAST = 241  # bytes: for shorter inputs xxh3 is another algorithm


class Drawer:
    """Draws views of ``recipe`` on ``device``, by kernels on the current stream. All calls share scratch memory, so they must
    not run at once: to draw while a model runs, use ``stream``."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        """Raises Unavailable."""
        self.recipe, self.device, self.kernels = recipe, device, open_kernels(device)
        self.constants = _bytes(packed.constants(recipe)).to(device)
        blocks = 1
        if device.type == "cuda":
            blocks = _BLOCKS * torch.cuda.get_device_properties(device).multi_processor_count
        self.blocks, self.threads = blocks, _THREADS
        room = max(blocks * packed.room(recipe, _ROOM), packed.room(recipe, packed.LARGEST))
        self.rooms = torch.empty(room, dtype=torch.uint8, device=device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else torch.cpu.Stream()

    def room(self, shards: Shards, repeats: int) -> int:
        """Bytes of a slot that holds a packed block in r = ``repeats`` views."""
        return packed.block_room(shards, self.recipe, repeats)

    def draw(self, sent: torch.Tensor, what: Packed, out: torch.Tensor) -> None:
        """Draws all V views of ``sent``, uint8, the packed bytes on the device, into ``out``, uint8 (V, 3, R, R), contiguous."""
        blocks = min(what.views, self.blocks, self.rooms.numel() // what.room)
        arguments = (
            sent,
            what.views_at,
            what.ops_at,
            self.constants,
            self.rooms,
            what.room,
            what.taps,
            out,
            what.views,
        )
        self.kernels("draw_views", blocks, self.threads, *arguments)

    def digests(self, pixels: torch.Tensor) -> torch.Tensor:
        """xxh3_64 of each of ``pixels``, uint8 (r, ...) and contiguous: int64 (r,) on the device."""
        count, size = len(pixels), pixels[0].numel()
        if size < _LEAST:
            values = [xxhash.xxh3_64_intdigest(of.cpu().numpy()) for of in pixels]
            return torch.from_numpy(np.array(values, np.uint64).view(np.int64)).to(self.device)
        sums = torch.empty(count * 8 * ((size - 1) // 1024), dtype=torch.int64, device=self.device)
        found = torch.empty(count, dtype=torch.int64, device=self.device)
        self.kernels("sum_blocks", -(-sums.numel() // _THREADS) or 1, _THREADS, pixels, size, count, sums)
        self.kernels("chain", count, 8, pixels, size, count, sums, found)
        return found


def sent(
    drawer: Drawer, images: Sequence[tuple[np.ndarray, Sequence[View]]]
) -> tuple[torch.Tensor, Packed, torch.Tensor]:
    """The arguments of ``draw`` for r views of each image, uint8 (H, W, 3): packed bytes on the device, their layout, and memory
    for the views in the order of ``draw_block``, uint8 (V, 3, R, R)."""
    recipe, repeats = drawer.recipe, len(images[0][1])
    count = len(images) * repeats
    pixels = sum(image.size for image, _ in images) + count * 3 * recipe.size**2
    ops = sum(len(view.ops) for _, views in images for view in views) * packed.OP.itemsize
    packer = Packer(recipe, np.empty(pixels + ops + packed.table_bytes(recipe, count), np.uint8), count)
    for image, views in images:
        packer.add(image, views)
    what = packer.finish(packed.by_view(len(images), repeats))
    out = torch.empty((count, 3, recipe.size, recipe.size), dtype=torch.uint8, device=drawer.device)
    return torch.from_numpy(packer.memory[: what.bytes]).to(drawer.device), what, out


def draw_all(drawer: Drawer, images: Sequence[tuple[np.ndarray, Sequence[View]]]) -> np.ndarray:
    """Draws r views of each image, uint8 (H, W, 3): uint8 (V, 3, R, R), in the order of ``draw_block``."""
    packed_bytes, what, out = sent(drawer, images)
    drawer.draw(packed_bytes, what, out)
    return out.cpu().numpy()


@cache
def tested_drawer(recipe: Recipe, device: torch.device) -> Drawer | None:
    """A drawer on ``device`` that has passed its test. None if the device can't draw or gives other pixels than the CPU; why is
    said once."""
    try:
        made = Drawer(recipe, device)
        differ = _differ(made)
    except (Unavailable, torch.cuda.OutOfMemoryError) as error:
        say(f"views are drawn by the kernels for CPUs: {device} can't draw them: {first_line(error)}")
        return None
    if differ:
        say(f"views are drawn by the kernels for CPUs: {device} draws {differ} views of the canary otherwise")
        return None
    return made


def _differ(made: Drawer) -> int:
    """The number of canary views (crops and every op) whose digest on the device differs from the CPU's."""
    images = canary.canary_views(made.recipe)
    expected = np.stack([draw.draw(image, view, made.recipe) for image, view in images])
    found = torch.from_numpy(draw_all(made, [(image, [view]) for image, view in images])).to(made.device)
    digests = made.digests(found).cpu().numpy().view(np.uint64)
    return sum(int(one) != xxhash.xxh3_64_intdigest(of) for one, of in zip(digests, expected))


def _bytes(array: np.ndarray) -> Any:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))
