"""Reading and drawing one visit: one contiguous read, every sample decoded once, r views drawn.

The same function serves the teacher stage, the student and the live teacher, inside loader workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash

from pipeline.data.images import STORED, Rule
from pipeline.data.shards import Block, Sample, Shards
from pipeline.views.choose import Targets, View
from pipeline.views.draw import decoded, draw_block
from pipeline.views.finish import FinishPlan, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.places import drawer
from pipeline.views.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.views.packed import Packed


@dataclass(frozen=True)
class DrawnVisit:
    """One block in r views, ready to be labelled, mixed and finished. n = samples of the block.

    ``plan``: ``FinishPlan.stack`` of the r views, (r, n, ...) each; its ``partner`` counts rows of the block. ``pairs``
    (r, n//2, 2): the pairs of each view. ``digests``: xxh3_64 of each view's pixels, 16 hex digits. ``slot``, ``place``: the
    ring's slot or the device's place that holds the pixels, -1 for other memory.
    """

    block: Block
    first_view: int
    pixels: torch.Tensor  # uint8 (r, n, 3, R, R)
    plan: FinishPlan
    pairs: torch.Tensor  # int64 (r, n//2, 2)
    labels: torch.Tensor  # int64 (n,)
    digests: tuple[str, ...]
    targets: Targets | None = None
    slot: int = -1
    place: int = -1


def draw_visit(
    shards: Shards, recipe: Recipe, block: Block, first_view: int, repeats: int, out: np.ndarray | None = None
) -> DrawnVisit:
    """Draws r = ``repeats`` views of ``block``, from ``first_view`` on. Raises IntegrityError if the shard is damaged.

    ``out``: uint8 (r, n, 3, R, R), contiguous, takes the pixels; None allocates it.
    """
    samples = shards.read(block)
    shape = (repeats, len(samples), 3, recipe.size, recipe.size)
    canvas = np.empty(shape, np.uint8) if out is None else out
    chosen = draw_block(samples, recipe, first_view, canvas, shards.rule)
    digests = tuple(xxhash.xxh3_64_hexdigest(canvas[i]) for i in range(repeats))
    return replace(
        _decided(samples, recipe, block, first_view, chosen), pixels=torch.from_numpy(canvas), digests=digests
    )


def draw_here(
    samples: Sequence[Sample], recipe: Recipe, first_view: int, repeats: int, rule: Rule = STORED
) -> tuple[list[list[View]], torch.Tensor]:
    """``draw_block`` for a few views in the process that has the device, which draws them if it draws at all: their decisions,
    r lists of n, and pixels, uint8 (r, n, 3, R, R), on the CPU. Raises Undecodable."""
    made = drawer(recipe)
    if made is None:
        canvas = np.empty((repeats, len(samples), 3, recipe.size, recipe.size), np.uint8)
        return draw_block(samples, recipe, first_view, canvas, rule), torch.from_numpy(canvas)
    from pipeline.views.device import draw_all  # with numba, which need not be there for ``pil``

    images = list(decoded(samples, recipe, first_view, repeats, rule))
    pixels = torch.from_numpy(draw_all(made, images))
    return [list(of) for of in zip(*(views for _, views in images))], pixels.unflatten(0, (repeats, len(samples)))


def draw_visit_here(shards: Shards, recipe: Recipe, block: Block, first_view: int, repeats: int) -> DrawnVisit:
    """``draw_visit`` by way of ``draw_here``."""
    samples = shards.read(block)
    chosen, pixels = draw_here(samples, recipe, first_view, repeats, shards.rule)
    digests = tuple(xxhash.xxh3_64_hexdigest(of.numpy()) for of in pixels)
    return replace(_decided(samples, recipe, block, first_view, chosen), pixels=pixels, digests=digests)


def pack_visit(
    shards: Shards, recipe: Recipe, block: Block, first_view: int, repeats: int, memory: np.ndarray
) -> tuple[DrawnVisit, "Packed"]:
    """The same visit for a device that draws: packed into ``memory``, uint8 and contiguous; without pixels and digests."""
    from pipeline.views.packed import pack_block  # with numba, which need not be there for ``pil``

    samples = shards.read(block)
    chosen, what = pack_block(samples, recipe, first_view, repeats, memory, shards.rule)
    return _decided(samples, recipe, block, first_view, chosen), what


def _decided(
    samples: list[Sample], recipe: Recipe, block: Block, first_view: int, chosen: list[list[View]]
) -> DrawnVisit:
    """A visit without pixels."""
    mixed = [pair(recipe, samples[0].key, first_view + i, len(samples)) for i in range(len(chosen))]
    return DrawnVisit(
        block=block,
        first_view=first_view,
        pixels=torch.empty(0, dtype=torch.uint8),
        plan=FinishPlan.stack([finish_plan(of, by, recipe.erase.count) for of, by in zip(chosen, mixed)]),
        pairs=torch.from_numpy(np.stack([by.pairs for by in mixed])),
        labels=torch.tensor([sample.label for sample in samples]),
        digests=(),
    )
