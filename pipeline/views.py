"""The recipe, and all chance of a view as data: step 1 of choose, draw, finish (layer L1).

Every decision about view v of a sample is drawn here, as plain numbers, from one keyed hash of (recipe seed, sample
key, v), with the distributions of timm and torchvision for the same settings and no global generator. Deliberate
differences from DeiT's code: none in a single view; for mixing see ``pipeline.pairs``.
"""

import math
from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from pipeline.augment import Op, choose_jitter, choose_ops, parse
from pipeline.config import Config
from pipeline.keyed import Draws

VIEWS_VERSION = 1  # raise it with every change that moves a pixel or a decision; tests/golden.json watches

Triple = tuple[float, float, float]
Box = tuple[int, int, int, int]


class Erase(Config):
    """timm's RandomErasing; probability 0 is off. ``count``: up to so many boxes, sharing the area."""

    probability: float = Field(default=0.25, ge=0, le=1)
    mode: Literal["const", "rand", "pixel"] = "pixel"
    count: int = Field(default=1, ge=1, le=16)
    min_area: float = Field(default=0.02, gt=0, le=1)
    max_area: float = Field(default=1 / 3, gt=0, le=1)
    min_aspect: float = Field(default=0.3, ge=0.01, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Erase":
        if self.min_area > self.max_area:
            raise ValueError(f"min_area {self.min_area} is above max_area {self.max_area}")
        return self


class Mix(Config):
    """timm's Mixup per pair: alphas of Beta(alpha, alpha), 0 is off; ``switch`` is the share of CutMix when both are
    on.

    ``cutmix_minmax`` takes the box's sides from (min, max) times the view's side and switches CutMix on.
    """

    mixup: float = Field(default=0.0, ge=0, le=100)
    cutmix: float = Field(default=0.0, ge=0, le=100)
    probability: float = Field(default=1.0, ge=0, le=1)
    switch: float = Field(default=0.5, ge=0, le=1)
    cutmix_minmax: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Mix":
        if self.cutmix_minmax is not None and not 0 <= self.cutmix_minmax[0] < self.cutmix_minmax[1] <= 1:
            raise ValueError(f"cutmix_minmax: expected 0 <= min < max <= 1, found {self.cutmix_minmax}")
        return self

    @property
    def on(self) -> bool:
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None)


class Recipe(Config):
    """How views are made; the defaults are DeiT's (facts: main.py:32-188), except that mixing is off.

    ``size``: R, the view's side in pixels. ``crop``: ``random_resized`` is timm's RandomResizedCrop; ``random_padded``
    scales the shorter side to R (nothing to do for CIFAR at 32 px) and takes torchvision's RandomCrop(R, padding), as
    DeiT does at 32 px; ``center`` scales the shorter side to floor(R / crop_fraction) and crops the middle. ``policy``:
    a RandAugment or AutoAugment string of timm's, "" for none. ``color_jitter``: strength s of torchvision's
    ColorJitter(s, s, s); timm drops it silently when a policy other than 3a is on, here that is refused.
    """

    seed: int = Field(ge=0, lt=2**63)
    size: int = Field(ge=8, le=1024)
    crop: Literal["random_resized", "random_padded", "center"] = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = Field(default=4, ge=0, le=512)
    crop_fraction: float = Field(default=0.875, ge=0.1, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = Field(default=0.5, ge=0, le=1)
    policy: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = Field(default=0.0, ge=0, le=10)
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    erase: Erase = Erase()
    mix: Mix = Mix()
    engine: Literal["pil"] = "pil"

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        parse(policy)
        return policy

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: expected 0 < low <= high <= 1, found {self.scale}")
        if not 0.01 <= self.ratio[0] <= self.ratio[1] <= 100:
            raise ValueError(f"ratio: expected 0.01 <= low <= high <= 100, found {self.ratio}")
        if not all(0 <= mean <= 1 for mean in self.mean) or not all(0 < std <= 1 for std in self.std):
            raise ValueError(f"mean, std: expected values of 0 to 1, std above 0, found {self.mean} and {self.std}")
        if self.color_jitter and self.policy and "3a" not in self.policy:
            raise ValueError(
                f"color_jitter {self.color_jitter} with policy {self.policy!r}: timm and DeiT drop "
                "the jitter there; set color_jitter: 0.0, or policy: ''"
            )
        minmax = self.mix.cutmix_minmax
        if minmax is not None and int(self.size * minmax[0]) >= int(self.size * minmax[1]):
            raise ValueError(f"mix.cutmix_minmax: {minmax} leaves no choice of pixels at size {self.size}")
        return self


def of_split(recipe: Recipe, split: str) -> Recipe:
    """``recipe`` as ``split`` is drawn with: "val" without any chance."""
    return evaluation(recipe) if split == "val" else recipe


def evaluation(recipe: Recipe) -> Recipe:
    """``recipe`` without any chance: DeiT's evaluation transform at the same size, mean, std and interpolation."""
    return Recipe(
        seed=0,
        size=recipe.size,
        crop="center",
        crop_fraction=recipe.crop_fraction,
        interpolation=recipe.interpolation,
        flip=0.0,
        policy="",
        mean=recipe.mean,
        std=recipe.std,
        erase=Erase(probability=0.0, mode="const"),
        engine=recipe.engine,
    )


class View(NamedTuple):  # made in half the time that a frozen dataclass takes
    """All decisions of one view, in pixels. Boxes are (top, left, height, width).

    ``box``: crop in the source. ``scaled``: (height, width) that the crop is resized to. ``window``: (top,
    left) of the R x R view in that; what lies outside is black. ``ops``: names and arguments. ``erase``:
    boxes on the R x R view, a later one over an earlier one. ``noise``: seed of the erasing noise, 0 to 2**63
    - 1.
    """

    box: Box
    scaled: tuple[int, int]
    window: tuple[int, int]
    flip: bool
    ops: tuple[Op, ...]
    erase: tuple[Box, ...]
    noise: int


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
