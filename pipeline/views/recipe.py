"""The recipe of views as configuration: crop, flip, policy, erasing, mixing, normalisation."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.runtime.config import Config
from pipeline.views.policies import parse

VIEWS_VERSION = 1  # raise it with every change of a pixel or a decision; tests/golden.json notices such a change
ARITHMETIC = "pil"  # the arithmetic that defines the pixels: Pillow 13's, whichever engine computes them
Triple = tuple[float, float, float]


class Erase(Config):
    """Erasing of random boxes, timm's RandomErasing."""

    probability: float = Field(default=0.25, ge=0, le=1)
    """Share of the views that are erased; 0 is off."""
    mode: Literal["const", "rand", "pixel"] = "pixel"
    """What fills a box: ``const`` the mean colour, ``rand`` one random colour, ``pixel`` a random colour per pixel."""
    count: int = Field(default=1, ge=1, le=16)
    """Most boxes of one view; they share the area."""
    min_area: float = Field(default=0.02, gt=0, le=1)
    """Smallest erased area, as a share of the view."""
    max_area: float = Field(default=1 / 3, gt=0, le=1)
    """Largest erased area, as a share of the view; not below ``min_area``."""
    min_aspect: float = Field(default=0.3, ge=0.01, le=1)
    """Smallest height over width of a box; the largest is 1 / ``min_aspect``. 1 makes squares."""

    @model_validator(mode="after")
    def _ordered(self) -> "Erase":
        if self.min_area > self.max_area:
            raise ValueError(f"min_area {self.min_area} is above max_area {self.max_area}")
        return self


class Mix(Config):
    """Mixup and CutMix of the two views of a pair, as timm's Mixup does it; each pair draws its own share (lambda)."""

    mixup: float = Field(default=0.0, ge=0, le=100)
    """Alpha of Mixup, whose share is drawn from Beta(alpha, alpha); 0 is off, a larger alpha mixes more evenly."""
    cutmix: float = Field(default=0.0, ge=0, le=100)
    """Alpha of CutMix, whose share of the area is drawn from Beta(alpha, alpha); 0 is off."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Share of the pairs that are mixed."""
    switch: float = Field(default=0.5, ge=0, le=1)
    """Share of CutMix among the mixed pairs, where both are on."""
    cutmix_minmax: tuple[float, float] | None = None
    """Least and largest side of CutMix's box over the view's side (0 <= min < max <= 1), used in place of alpha; switches
    CutMix on. Null: the box follows from alpha."""

    @model_validator(mode="after")
    def _ordered(self) -> "Mix":
        if self.cutmix_minmax is not None and not 0 <= self.cutmix_minmax[0] < self.cutmix_minmax[1] <= 1:
            raise ValueError(f"cutmix_minmax: expected 0 <= min < max <= 1, found {self.cutmix_minmax}")
        return self

    @property
    def on(self) -> bool:
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None)


class Recipe(Config):
    """How views are made; the defaults are DeiT's (facebookresearch/deit main.py), except that mixing is off. Every key that
    the chosen crop uses is part of a cache's identity: after a change the teacher labels everything again."""

    seed: int = Field(ge=0, lt=2**63)
    """Seed of all random decisions; another seed gives other views."""
    size: int = Field(ge=8, le=1024)
    """Side of a view in px (R)."""
    crop: Literal["random_resized", "random_padded", "center"] = "random_resized"
    """``random_resized`` is timm's RandomResizedCrop. ``random_padded`` scales the shorter side to R and takes
    torchvision's RandomCrop(R, padding), as DeiT does at 32 px. ``center`` crops the middle, as in evaluation."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest area of a random resized crop, as shares of the image (0 < low <= high <= 1)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width over height of a random resized crop (0.01 <= low <= high <= 100)."""
    padding: int = Field(default=4, ge=0, le=512)
    """Black border in px of a random padded crop."""
    crop_fraction: float = Field(default=0.875, ge=0.1, le=1)
    """Of evaluation: the shorter side is scaled to floor(size / ``crop_fraction``), then the middle is cropped."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter with which images are scaled."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    policy: str = "rand-m9-mstd0.5-inc1"
    """timm's string of a RandAugment or AutoAugment policy; "" is off."""
    color_jitter: float = Field(default=0.0, ge=0, le=10)
    """Strength s of torchvision's ColorJitter(s, s, s); 0 is off. Refused beside a policy other than 3a, where timm drops it
    silently."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Mean of red, green and blue for normalisation, 0 to 1 (ImageNet's)."""
    std: Triple = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue for normalisation, above 0 to 1 (ImageNet's)."""
    erase: Erase = Erase()
    """Random erasing."""
    mix: Mix = Mix()
    """Mixup and CutMix."""
    shared_pairing: int = Field(default=1, ge=1, le=64)
    """Number of consecutive views in which an image keeps its mixing partner; share and box are drawn for each view. If it
    equals a training's ``repeats``, all views of an image are in one step, as in DeiT (3). 1: each view has its own partner."""

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

    @property
    def fill(self) -> tuple[int, ...]:
        """The colour of pixels that ops move in from outside of a view: the mean, 0 to 255."""
        return tuple(min(255, round(255 * mean)) for mean in self.mean)


def of_split(recipe: Recipe, split: str) -> Recipe:
    """The recipe with which ``split`` is drawn: for "val" ``evaluation(recipe)``, else ``recipe``."""
    return evaluation(recipe) if split == "val" else recipe


def evaluation(recipe: Recipe) -> Recipe:
    """``recipe`` without randomness: DeiT's evaluation transform at the same size, mean, std and interpolation."""
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
    )


def in_timms_words(recipe: Recipe) -> dict[str, Any]:
    """The settings of ``evaluation(recipe)`` under the names that timm's pretrained_cfg uses."""
    return {
        "input_size": [3, recipe.size, recipe.size],
        "interpolation": recipe.interpolation,
        "crop_pct": recipe.crop_fraction,
        "mean": list(recipe.mean),
        "std": list(recipe.std),
    }
