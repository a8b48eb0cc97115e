"""Which model is the teacher and how it computes, as configuration."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.runtime.config import ArchArgs, Config
from pipeline.views.recipe import Triple

Precision = Literal["fp32", "bf16", "fp16"]


class TeacherConfig(Config):
    """Which model is the teacher and how it computes.

    ``arch`` is timm's name, with the tag where ``weights`` is "timm" (the hub's weights of that name). ``weights`` may
    also be "hf-hub:owner/name", a local file (``weights_key`` picks ``model`` or ``model_ema`` in a training
    checkpoint), or null: then stage ``fit_teacher`` trains it. ``mean`` and ``std`` are what it was trained with.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    arch: str
    arch_args: ArchArgs = Field(default_factory=dict)
    weights: str | None = None
    weights_key: Literal["model", "model_ema", "state_dict", "state_dict_ema"] | None = None
    mean: Triple = (0.485, 0.456, 0.406)  # ImageNet
    std: Triple = (0.229, 0.224, 0.225)
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "TeacherConfig":
        if min(self.std) <= 0.0:
            raise ValueError(f"std: expected three numbers above 0, found {self.std}")
        return self
