"""Reading and drawing one visit: one contiguous read, every sample decoded once, r views drawn.

The same function serves the teacher stage, the student and the live teacher, inside loader workers.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from pipeline.data.images import decode
from pipeline.data.shards import Block, Shards
from pipeline.views.choose import View, choose
from pipeline.views.draw import draw
from pipeline.views.finish import Finishing, finishing
from pipeline.views.pairs import pair
from pipeline.views.recipe import Recipe
from pipeline.views.visits import Targets


@dataclass(frozen=True)
class Drawn:
    """One block in r views, ready to be labelled, mixed and finished. n = samples of the block.

    ``plan``: ``Finishing.stack`` of the r views, (r, n, ...) each; its ``partner`` counts rows of the block. ``pairs``
    (r, n//2, 2): the pairs of each view. ``digests``: xxh3_64 of each view's pixels, 16 hex digits.
    """

    block: Block
    first_view: int
    pixels: torch.Tensor  # uint8 (r, n, 3, R, R)
    plan: Finishing
    pairs: torch.Tensor  # int64 (r, n//2, 2)
    labels: torch.Tensor  # int64 (n,)
    digests: tuple[str, ...]
    targets: Targets | None = None


def draw_visit(shards: Shards, recipe: Recipe, block: Block, first_view: int, views: int) -> Drawn:
    """Draws ``views`` views of ``block``, from ``first_view`` on. Raises IntegrityError if the shard is damaged."""
    samples = shards.read(block)
    n, size = len(samples), recipe.size
    pixels = torch.empty((views, n, 3, size, size), dtype=torch.uint8)
    canvas = pixels.numpy()
    chosen: list[list[View]] = [[] for _ in range(views)]
    for row, sample in enumerate(samples):
        image = decode(sample.data, sample.key, shards.rule)
        for i in range(views):
            view = choose(recipe, sample.key, first_view + i, image.height, image.width)
            canvas[i, row] = draw(image, view, recipe)
            chosen[i].append(view)
    mixed = [pair(recipe, samples[0].key, first_view + i, n) for i in range(views)]
    return Drawn(
        block=block,
        first_view=first_view,
        pixels=pixels,
        plan=Finishing.stack([finishing(of, by, recipe.erase.count) for of, by in zip(chosen, mixed)]),
        pairs=torch.from_numpy(np.stack([by.pairs for by in mixed])),
        labels=torch.tensor([sample.label for sample in samples]),
        digests=tuple(xxhash.xxh3_64_hexdigest(canvas[i]) for i in range(views)),
    )
