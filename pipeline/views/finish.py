"""From uint8 pixels to what the model sees: normalise, erase, mix; step 3 of choose, draw, finish.

In DeiT's order (erasing before mixing), the same for teacher and student, and with the same bits on every CPU
capability and GPU: only exact conversions, integer arithmetic and separate multiplications and additions are used. It
must never be compiled: a fused multiply-add rounds once instead of twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

from pipeline.views.choose import View
from pipeline.views.pairs import Pairs
from pipeline.views.recipe import Recipe, Triple

_MASK = 0xFFFFFFFF
_BAND = 1 << 20  # values worked on at a time on a CPU: 4 MB, small enough that malloc reuses it


@dataclass(frozen=True)
class FinishPlan:
    """Erasing and mixing of B drawn views. E: the recipe's erase.count, so that batches can be joined.

    ``erase`` int32 (B, E, 4): top, left, height, width, all 0 for none. ``noise`` int64 (B,): seed of the erasing
    noise. ``partner`` int64 (B,): row of the partner in this batch. ``lam`` float32 (B,), ``box`` int32 (B, 4): as in
    ``views.pairs.Pairs``.
    """

    erase: Tensor
    noise: Tensor
    partner: Tensor
    lam: Tensor
    box: Tensor

    def to(self, device: torch.device) -> "FinishPlan":
        return FinishPlan(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    @classmethod
    def stack(cls, plans: "Sequence[FinishPlan]") -> "FinishPlan":
        """The plans of r views of one block as one with a leading dimension: fewer tensors to send to another process."""
        return cls(*(torch.stack([getattr(plan, field.name) for plan in plans]) for field in fields(cls)))

    def view(self, index: int) -> "FinishPlan":
        """View ``index`` of a plan made by ``stack``."""
        return FinishPlan(*(getattr(self, field.name)[index] for field in fields(self)))


def finish_plan(views: Sequence[View], pairs: Pairs, erase_count: int) -> FinishPlan:
    """The plan for the views of one block, in the block's order; ``erase_count``: the recipe's erase.count."""
    erase = torch.zeros((len(views), erase_count, 4), dtype=torch.int32)
    for row, view in enumerate(views):
        for place, box in enumerate(view.erase):
            erase[row, place] = torch.tensor(box, dtype=torch.int32)
    return FinishPlan(
        erase=erase,
        noise=torch.tensor([view.noise for view in views], dtype=torch.int64),
        partner=torch.from_numpy(pairs.partner),
        lam=torch.from_numpy(pairs.lam),
        box=torch.from_numpy(pairs.box),
    )


@torch.no_grad()
def finish(pixels: Tensor, plan: FinishPlan, recipe: Recipe) -> Tensor:
    """Float views (B, 3, R, R) from uint8 ``pixels`` (B, 3, R, R), on the device of both.

    A row's result is a function of that row and its partner's alone: no batch size, position or device changes a bit.
    On a CPU it works band by band, so that only the result is a fresh large allocation.
    """
    batch, channels, size, _ = pixels.shape
    scale, shift = _affine(recipe.mean, recipe.std, pixels.device)
    views = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    height = max(1, _BAND // max(1, batch * channels * size)) if pixels.device.type == "cpu" else size
    for first in range(0, size, height):
        band = slice(first, min(first + height, size))
        lines = torch.arange(band.start, band.stop, dtype=torch.int32, device=pixels.device)
        values = pixels[:, :, band].to(torch.float32).mul_(scale).add_(shift)
        _erase(values, lines, plan, recipe.erase.mode)
        _mix(values, lines, plan, out=views[:, :, band])
    return views


def _erase(values: Tensor, lines: Tensor, plan: FinishPlan, mode: str) -> None:
    """timm's RandomErasing on normalised (B, 3, lines, R), in place.

    ``const``: 0; ``rand``: one N(0,1) per box and channel; ``pixel``: one per pixel and channel.
    """
    size = values.shape[-1]
    columns = torch.arange(size, dtype=torch.int32, device=values.device)
    top, left, height, width = (side.unsqueeze(-1) for side in plan.erase.unbind(-1))  # each (B, E, 1)
    down = (lines >= top) & (lines < top + height)  # (B, E, lines)
    across = (columns >= left) & (columns < left + width)  # (B, E, R)
    numbers = torch.arange(1, plan.erase.shape[1] + 1, dtype=torch.uint8, device=values.device).view(-1, 1, 1)
    covered = (down.unsqueeze(-1) & across.unsqueeze(-2)) * numbers  # (B, E, lines, R)
    last = covered.amax(1) if covered.shape[1] > 1 else covered[:, 0]  # the box on top, from 1; 0 for none
    row, y, x = last.nonzero(as_tuple=True)
    if mode == "const":
        values[row, :, y, x] = 0.0
        return
    place = (y + lines[0]) * size + x if mode == "pixel" else last[row, y, x].to(torch.int64)
    channel = torch.arange(3, device=values.device).view(3, 1)
    values[row, :, y, x] = _table(values.device)[_hash16(plan.noise[row], place * 3 + channel)].T


def _mix(values: Tensor, lines: Tensor, plan: FinishPlan, out: Tensor) -> None:
    """CutMix pastes the box; Mixup is ``x * lam + partner * (1 - lam)``.

    Where there is nothing to mix, ``x * 1 + y * 0`` leaves every bit as it is: no value here is -0.0.
    """
    columns = torch.arange(values.shape[-1], dtype=torch.int32, device=values.device)
    top, left, bottom, right = (side.unsqueeze(-1) for side in plan.box.unbind(-1))  # each (B, 1)
    down, across = (lines >= top) & (lines < bottom), (columns >= left) & (columns < right)
    inside = (down.unsqueeze(-1) & across.unsqueeze(-2)).unsqueeze(1)  # (B, 1, lines, R)
    others = values[plan.partner]
    own = torch.where((bottom > top).squeeze(-1), 1.0, plan.lam).view(-1, 1, 1, 1)
    values = torch.where(inside, others, values)
    torch.add(values.mul_(own), others.mul_(1.0 - own), out=out)


def _hash16(seed: Tensor, place: Tensor) -> Tensor:
    """16 hash bits of (seed, place), int64: rounds of a 32-bit mixer whose products stay below 2**63.

    The constants are the triple 16-15-15 of C. Wellons' hash prospector; both are below 2**31.
    """
    start = _mix32(seed & _MASK)  # mixed first, or neighbouring seeds would share their noise, shifted by one place
    return _mix32(_mix32((start + place) & _MASK) ^ (seed >> 32)) >> 16


def _mix32(value: Tensor) -> Tensor:
    value = ((value ^ (value >> 16)) * 0x21F0AAAD) & _MASK
    value = ((value ^ (value >> 15)) * 0x735A2D97) & _MASK
    return value ^ (value >> 15)


@lru_cache  # of constants, since a copy to a GPU waits for all that the GPU has to do
def _affine(mean: Triple, std: Triple, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1) that normalise uint8 values."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std)], device=device)
    return scale.view(3, 1, 1), shift.view(3, 1, 1)


@lru_cache
def _table(device: torch.device) -> Tensor:
    """float32 (65536,): the mid-quantiles of N(0,1); rounded, so that no C library's logarithm can change a bit."""
    half = [round(NormalDist().inv_cdf((i + 0.5) / 65536), 6) for i in range(32768)]
    return torch.tensor(half + [-value for value in reversed(half)], dtype=torch.float32, device=device)
