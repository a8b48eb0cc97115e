"""Which model is the teacher and how it computes, as configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.runtime.config import NONE, ArchArgs, Config, Weights, WeightsKey, load
from pipeline.views.recipe import Recipe, Triple

Precision = Literal["fp32", "bf16", "fp16"]
ClassOrder = Literal["checked", "given"]


class TeacherConfig(Config):
    """Which model is the teacher and how it computes. Its weights come from ``weights``, from a trained ``student``, or from a
    ``fit``. The weights and all keys that change a logit are part of a cache's identity."""

    recipe: str
    """Name of the recipe that it is fitted on; its size is that of the validation views that it answers."""
    student: str = NONE
    """Name of a trained student that teaches, or ``none``."""
    arch: str
    """timm's name of the model, with the tag of its weights where ``weights`` is ``timm``."""
    arch_args: ArchArgs = Field(default_factory=dict)
    """timm's arguments of the model; ``img_size`` follows the recipe's size unless it is set."""
    weights: Weights | None = None
    """Trained weights: ``timm`` (the hub's weights of ``arch``), ``hf-hub:owner/name`` or a local file. Null: they are the
    student's, or are fitted here."""
    weights_key: WeightsKey | None = None
    """Which weights to take from a training checkpoint; null takes the first that is there, in this order."""
    outputs: Literal["by_name"] | list[int] | None = None
    """Which outputs of ``weights`` are the data's classes, where they have more: ``by_name`` (the data's class names are
    ImageNet's wnids, or names beside the weights), or their numbers, in the order of the classes. Null: all of them."""
    class_order: ClassOrder = "checked"
    """``checked``: weights whose outputs stand for the data's classes in another order are refused, by the names beside them
    and by their answers on validation images. ``given``: that is a warning. It changes no logit."""
    initial: Weights | None = None
    """Trained weights that the fit starts from, named like ``weights``; a classifier for another number of classes starts
    at zero. Null: all weights start untrained."""
    initial_key: WeightsKey | None = None
    """Which weights to take from a training checkpoint that ``initial`` names; null as above."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, 0 to 1, that it was trained with (ImageNet's)."""
    std: Triple = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue, above 0, that it was trained with (ImageNet's)."""
    precision: Precision = "fp32"
    """Type of autocast when it answers; bf16 and fp16 are faster on a GPU and give other last digits."""
    channels_last: bool = False
    """Memory format NHWC, which is faster for convnets on a GPU."""
    compile: bool = False
    """Compile the model with torch.compile: faster after some minutes of compiling."""
    fit: Mapping[str, Any] | None = None
    """How stage fit_teacher trains it: the keys of a training but ``repeats``, ``period``, ``verify_views``, ``score`` and
    ``result``. Null only where it has weights or a student."""

    @property
    def fitted_here(self) -> bool:
        """Whether stage ``fit_teacher`` trains it."""
        return self.weights is None and self.student == NONE

    @model_validator(mode="after")
    def _consistent(self) -> "TeacherConfig":
        if min(self.std) <= 0.0:
            raise ValueError(f"std: expected three numbers above 0, found {self.std}")
        if self.weights is not None and self.student != NONE:
            raise ValueError(f"weights: {self.weights} and student {self.student} both give weights; keep one of them")
        if self.initial is not None and not self.fitted_here:
            raise ValueError(
                f"initial: {self.initial} is for a teacher that is fitted here; remove it, or remove weights and student"
            )
        for key, of in (("weights_key", self.weights), ("initial_key", self.initial)):
            if getattr(self, key) is not None and of is None:
                raise ValueError(f"{key}: {getattr(self, key)} picks weights where {key[:-4]} names none; remove it")
        if self.outputs is not None and self.weights is None:
            raise ValueError("outputs: picks classes of given weights, and weights is null; remove it")
        if self.fitted_here and self.fit is None:
            raise ValueError("weights: null needs a section fit, which says how to train the teacher")
        return self


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher of params.yaml with its recipe: the views that it is fitted on, and the size of those that it answers."""

    name: str
    config: TeacherConfig
    recipe: Recipe

    @classmethod
    def load(cls, params: Path, name: str) -> "NamedTeacher":
        config = load(params, f"teachers.{name}", TeacherConfig)
        return cls(name, config, load(params, f"recipes.{config.recipe}", Recipe))
