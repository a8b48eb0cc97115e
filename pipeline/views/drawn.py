"""Reading and drawing one visit: one contiguous read, every sample decoded once, r views drawn.

The same function serves the teacher stage, the student and the live teacher, inside loader workers.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from pipeline.data.shards import Block, Shards
from pipeline.views.choose import Targets
from pipeline.views.draw import draw_block
from pipeline.views.finish import FinishPlan, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class DrawnVisit:
    """One block in r views, ready to be labelled, mixed and finished. n = samples of the block.

    ``plan``: ``FinishPlan.stack`` of the r views, (r, n, ...) each; its ``partner`` counts rows of the block. ``pairs``
    (r, n//2, 2): the pairs of each view. ``digests``: xxh3_64 of each view's pixels, 16 hex digits. ``slot``: the ring's
    slot that holds the pixels, -1 for memory outside the ring.
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


def draw_visit(
    shards: Shards, recipe: Recipe, block: Block, first_view: int, repeats: int, out: np.ndarray | None = None
) -> DrawnVisit:
    """Draws r = ``repeats`` views of ``block``, from ``first_view`` on. Raises IntegrityError if the shard is damaged.

    ``out``: uint8 (r, n, 3, R, R), contiguous, takes the pixels; None allocates it.
    """
    samples = shards.read(block)
    n, size = len(samples), recipe.size
    canvas = np.empty((repeats, n, 3, size, size), np.uint8) if out is None else out
    chosen = draw_block(samples, recipe, first_view, canvas, shards.rule)
    mixed = [pair(recipe, samples[0].key, first_view + i, n) for i in range(repeats)]
    return DrawnVisit(
        block=block,
        first_view=first_view,
        pixels=torch.from_numpy(canvas),
        plan=FinishPlan.stack([finish_plan(of, by, recipe.erase.count) for of, by in zip(chosen, mixed)]),
        pairs=torch.from_numpy(np.stack([by.pairs for by in mixed])),
        labels=torch.tensor([sample.label for sample in samples]),
        digests=tuple(xxhash.xxh3_64_hexdigest(canvas[i]) for i in range(repeats)),
    )
