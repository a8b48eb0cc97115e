"""How models are trained, as configuration."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.runtime.config import Config


class OptimizerConfig(Config):
    """``lr`` holds for a batch of 512 and is scaled linearly, as DeiT's; ``warmup_lr`` and ``min_lr`` are not
    scaled."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=5.0, ge=0)
    warmup_lr: float = Field(default=1e-6, ge=0)
    min_lr: float = Field(default=1e-5, ge=0)
    clip_grad: float | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=0.99996, gt=0, lt=1)


class LoopConfig(Config):
    """Fields that fitting a teacher and training a student share; never used by itself."""

    seed: int = Field(default=0, ge=0)
    epochs: float = Field(gt=0, le=100_000)
    batch: int = Field(ge=2)  # B, over all ranks
    lanes: int = Field(default=1, ge=1)  # L; the world size must divide it
    window: int = Field(default=4, ge=1)  # W
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpoint_steps: int = Field(default=1000, ge=1)
    score_epochs: int = Field(default=1, ge=1)  # the last epoch is scored in any case

    @model_validator(mode="after")
    def _whole_pairs(self) -> Self:
        if self.batch % (2 * self.lanes):
            raise ValueError(
                f"batch: expected a multiple of 2 x lanes = {2 * self.lanes} (each lane gives whole pairs), found {self.batch}"
            )
        return self


class TrainConfig(LoopConfig):
    """How students are trained; one for all of them, so that their comparison is fair. ``period`` K: null = V."""

    repeats: int = Field(default=3, ge=1)  # r
    period: int | None = Field(default=None, ge=1)  # K
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    verify_views: Literal["all", "first_cycle"] | Annotated[float, Field(ge=0, le=1)] = "all"


class FitConfig(LoopConfig):
    """How a teacher is fitted: plain supervised training on the recipe's views, each view once."""

    smoothing: float = Field(default=0.1, ge=0, lt=1)
