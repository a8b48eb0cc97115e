"""All chance of a view as data: step 1 of choose, draw, finish. And a visit with its targets, the unit of the other steps.

Every decision about view v of a sample is drawn here, as plain numbers, from one keyed hash of (recipe seed, sample
key, v), with the distributions of timm and torchvision for the same settings and no global generator. A single view has no
deliberate difference from DeiT's code; for mixing see ``views.pairs``."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.views.chance import Draws
from pipeline.views.policies import Op, choose_jitter, choose_ops, parse
from pipeline.views.recipe import Erase, Recipe

Box = tuple[int, int, int, int]


class View(NamedTuple):  # made in half the time that a frozen dataclass takes
    """All decisions of one view, in pixels. Boxes are (top, left, height, width).

    ``box``: crop in the source. ``scaled``: (height, width) that the crop is resized to. ``window``: (top, left) of the
    R x R view in that; what lies outside is black. ``ops``: names and arguments. ``erase``: boxes on the R x R view, a
    later one over an earlier one. ``noise``: seed of the erasing noise, 0 to 2**63 - 1.
    """

    box: Box
    scaled: tuple[int, int]
    window: tuple[int, int]
    flip: bool
    ops: tuple[Op, ...]
    erase: tuple[Box, ...]
    noise: int


@dataclass(frozen=True)
class Visit:
    """Block ``block`` in views ``first_view .. first_view + repeats - 1``; ``cycle`` counts passes over all blocks."""

    block: int
    first_view: int
    repeats: int
    cycle: int


@dataclass(frozen=True)
class Targets:
    """A teacher's answers on r views of a block's n samples: hard uint16 (r, n), logits float32 (r, n, C) or None."""

    hard: np.ndarray
    logits: np.ndarray | None


def choose(recipe: Recipe, key: str, view: int, height: int, width: int) -> View:
    """All decisions about view ``view`` of the sample ``key``, an image of ``height`` x ``width`` pixels."""
    draws = Draws(recipe.seed, "view", key, view)
    size = recipe.size
    box, scaled, window = (0, 0, height, width), (size, size), (0, 0)
    if recipe.crop == "random_resized":
        box = _random_resized(draws, recipe.scale, recipe.ratio, height, width)
    elif recipe.crop == "random_padded":
        scaled = _shorter_side(size, height, width)
        pad = recipe.padding
        window = (
            draws.below(scaled[0] - size + 2 * pad + 1) - pad,
            draws.below(scaled[1] - size + 2 * pad + 1) - pad,
        )
    else:
        scaled = _shorter_side(math.floor(size / recipe.crop_fraction), height, width)
        window = (round((scaled[0] - size) / 2.0), round((scaled[1] - size) / 2.0))
    flip = recipe.flip > 0.0 and draws.uniform() < recipe.flip
    policy = parse(recipe.policy)
    ops = () if policy is None else choose_ops(policy, draws)
    if recipe.color_jitter:
        ops += choose_jitter(recipe.color_jitter, draws)
    erase: tuple[Box, ...] = ()
    noise = 0
    if recipe.erase.probability > 0.0 and draws.uniform() < recipe.erase.probability:
        erase = _erase(draws, recipe.erase, size)
        noise = draws.word() << 31 | draws.word() >> 1
    return View(box, scaled, window, flip, ops, erase, noise)


def _shorter_side(target: int, height: int, width: int) -> tuple[int, int]:
    """torchvision's Resize(target): the longer side is cut down to a whole number."""
    if height <= width:
        return target, int(target * width / height)
    return int(target * height / width), target


def _random_resized(
    draws: Draws, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int
) -> Box:
    """timm's RandomResizedCropAndInterpolation.get_params: ten tries, then the middle."""
    area = height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        target = draws.uniform(scale[0], scale[1]) * area
        aspect = math.exp(draws.uniform(low, high))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:  # timm lets 0 pass and crashes
            return draws.below(height - h + 1), draws.below(width - w + 1), h, w
    if width / height < ratio[0]:
        h, w = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        h, w = height, round(height * ratio[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def _erase(draws: Draws, erase: Erase, size: int) -> tuple[Box, ...]:
    """timm's RandomErasing._erase: per box ten tries to find one that is smaller than the view."""
    count = 1 if erase.count == 1 else 1 + draws.below(erase.count)
    bound = math.log(erase.min_aspect)
    boxes: list[Box] = []
    for _ in range(count):
        for _ in range(10):
            area = draws.uniform(erase.min_area, erase.max_area) * size * size / count
            aspect = math.exp(draws.uniform(bound, -bound))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < size and w < size:
                boxes.append((draws.below(size - h + 1), draws.below(size - w + 1), h, w))
                break
    return tuple(boxes)
