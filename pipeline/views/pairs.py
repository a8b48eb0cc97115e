"""Mixup and CutMix as data: the partner of each sample, their shares and the box.

timm's Mixup in mode ``pair``, with a keyed permutation of the block instead of the batch's order. DeiT's code mixes a batch
with its flipped self, draws one lambda and one box per batch and rank, and needs an even batch. Here, deliberately, each pair
has its own, so that a cached view does not depend on batch size or world size.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.views.chance import Draws
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class Pairs:
    """The mixing of one view of a block of n samples; rows are positions in the block.

    ``partner`` int64 (n,), an involution. ``lam`` float32 (n,): the sample's own share, already corrected for the
    clipped box. ``box`` int32 (n, 4): top, left, bottom, right of what CutMix pastes, all 0 for Mixup and for none.
    ``pairs`` int64 (n // 2, 2): in an odd block the last of the permutation stays alone and unmixed.
    """

    partner: np.ndarray
    lam: np.ndarray
    box: np.ndarray
    pairs: np.ndarray


def pair(recipe: Recipe, block: str, view: int, n: int) -> Pairs:
    """Pairs the n samples of ``block`` in view ``view``; with mixing off they are paired all the same, lambda 1.

    Views v with equal v // ``recipe.shared_pairing`` have the same ``partner`` and ``pairs``, each its own ``lam`` and
    ``box``.
    """
    draws, shared = Draws(recipe.seed, "pair", block, view), recipe.shared_pairing
    partners = draws if shared == 1 else Draws(recipe.seed, "partners", block, view // shared)
    pairs = partners.permutation(n)[: n - n % 2].reshape(-1, 2)
    partner = np.arange(n)
    partner[pairs[:, 0]], partner[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    lam, box = np.ones(n, np.float32), np.zeros((n, 4), np.int32)
    if recipe.mix.on and len(pairs):
        mixed = [_mix(draws, recipe) for _ in pairs]
        lam[pairs.T], box[pairs.T] = [own for own, _ in mixed], [pasted for _, pasted in mixed]
    return Pairs(partner, lam, box, pairs)


def _mix(draws: Draws, recipe: Recipe) -> tuple[float, tuple[int, int, int, int]]:
    """lambda and box of one pair (timm's Mixup._params_per_elem, cutmix_bbox_and_lam with correct_lam)."""
    mix, size, nothing = recipe.mix, recipe.size, (0, 0, 0, 0)
    if draws.uniform() >= mix.probability:
        return 1.0, nothing
    cutmix_alpha = mix.cutmix if mix.cutmix_minmax is None else 1.0
    cutmix = cutmix_alpha > 0.0 and (mix.mixup == 0.0 or draws.uniform() < mix.switch)
    # as float32 already here, so that one ulp of a C library's logarithm cannot move a box
    lam = float(np.float32(draws.beta(cutmix_alpha if cutmix else mix.mixup)))
    if not cutmix or lam == 1.0:
        return lam, nothing
    top, left, bottom, right = _box(draws, size, lam) if mix.cutmix_minmax is None else _minmax(draws, recipe)
    area = (bottom - top) * (right - left)
    return (1.0 - area / (size * size), (top, left, bottom, right)) if area else (1.0, nothing)


def _box(draws: Draws, size: int, lam: float) -> tuple[int, int, int, int]:
    """timm's rand_bbox: a square of area 1 - lam around a uniform centre, clipped."""
    side = int(size * math.sqrt(1.0 - lam))
    y, x = draws.below(size), draws.below(size)
    top, bottom = max(0, y - side // 2), min(size, y + (side + 1) // 2)
    left, right = max(0, x - side // 2), min(size, x + (side + 1) // 2)
    return top, left, bottom, right


def _minmax(draws: Draws, recipe: Recipe) -> tuple[int, int, int, int]:
    """timm's rand_bbox_minmax: both sides uniform between the two shares of the view, wholly inside."""
    assert recipe.mix.cutmix_minmax is not None
    low, high = (int(recipe.size * share) for share in recipe.mix.cutmix_minmax)
    height, width = low + draws.below(high - low), low + draws.below(high - low)
    top, left = draws.below(recipe.size - height + 1), draws.below(recipe.size - width + 1)
    return top, left, top + height, left + width
