"""Which model is the teacher and how it computes, as configuration."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.base.weights_name import Key
from pipeline.runtime.config import NONE, ArchArgs, Config
from pipeline.views.recipe import Triple

Precision = Literal["fp32", "bf16", "fp16"]


class TeacherConfig(Config):
    """Which model is the teacher and how it computes.

    ``recipe`` is what it is fitted on, and its size is that of the validation views that it answers. ``arch`` is timm's
    name, with the tag where ``weights`` is "timm" (the hub's weights of that name). ``weights`` may also be
    "hf-hub:owner/name" or a local file (``weights_key`` picks ``model`` or ``model_ema`` in a training checkpoint).
    Without weights, ``student`` names a trained student that teaches, or ``fit`` says how stage ``fit_teacher`` trains
    the model, from new weights or from those that ``initial`` names (as ``weights`` does). ``mean`` and ``std`` are what
    it was trained with.
    """

    recipe: str
    student: str = NONE
    arch: str
    arch_args: ArchArgs = Field(default_factory=dict)
    weights: str | None = None
    weights_key: Key | None = None
    initial: str | None = None
    initial_key: Key | None = None
    mean: Triple = (0.485, 0.456, 0.406)  # of ImageNet
    std: Triple = (0.229, 0.224, 0.225)
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    fit: Mapping[str, Any] | None = None  # a training.config.FitConfig, which only fit_teacher reads

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
        if self.fitted_here and self.fit is None:
            raise ValueError("weights: null needs a section fit, which says how to train the teacher")
        return self
