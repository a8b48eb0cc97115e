"""How models are trained, as configuration."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.base.constraints import require_batch, require_rate
from pipeline.runtime.config import Config


class OptimizerConfig(Config):
    """``lr`` holds for a batch of 512 and is scaled linearly, as DeiT's; with ``scale_lr`` off it is used as it stands.
    ``warmup_lr`` and ``min_lr`` are never scaled (DeiT's code; its ``cooldown_epochs`` does nothing there and is no key).

    ``sgd`` is Nesterov's with ``momentum``; ``adam`` adds the decay to the gradient, ``adamw`` decays the weights
    themselves. ``clip_grad``: the largest norm of the whole gradient, null for none as DeiT. ``ema_warmup``: the
    average's decay grows as 1 - (1 + step)^(-2/3) up to ``ema_decay`` (timm's ModelEmaV3), which short runs need.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(default=5e-4, gt=0)
    scale_lr: bool = True
    momentum: float = Field(default=0.9, gt=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=5.0, ge=0, le=100_000)
    warmup_lr: float = Field(default=1e-6, ge=0)
    min_lr: float = Field(default=1e-5, ge=0)
    clip_grad: float | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=0.99996, gt=0, lt=1)
    ema_warmup: bool = False

    def scaled_lr(self, batch: int) -> float:
        """The learning rate after the warm-up of a training in batches of ``batch``."""
        return self.lr * batch / 512 if self.scale_lr else self.lr


class LoopConfig(Config):
    """Fields that fitting a teacher and training a student share; never used by itself.

    ``accumulate``: a step's gradient is the average over so many parts of its batch, one after the other, which needs
    less memory and changes neither the order of the samples nor the learning rate (batch norms see a part).
    ``precision``: the type of autocast; fp16 scales the loss so that small gradients survive. ``tf32``: faster and less
    exact float32 products on NVIDIA GPUs; off, it is as torch has it (off for products, on for convolutions).
    ``labelled_per_class``: so many images of each class keep their labels, those that a hash of (``labelled_seed``, key)
    puts first, so that 10 per class are among 20 per class; null for all.
    """

    seed: int = Field(default=0, ge=0, lt=2**62)
    epochs: float = Field(gt=0, le=100_000)
    batch: int = Field(ge=2, le=1_000_000)  # B, over all ranks
    lanes: int = Field(default=1, ge=1, le=65_536)  # L; the world size must divide it
    window: int = Field(default=4, ge=1, le=65_536)  # W
    optimizer: OptimizerConfig = OptimizerConfig()
    accumulate: int = Field(default=1, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    tf32: bool = False
    compile: bool = False
    labelled_per_class: int | None = Field(default=None, ge=1)
    labelled_seed: int = Field(default=0, ge=0)
    checkpoint_steps: int = Field(default=1000, ge=1)
    score_epochs: int = Field(default=1, ge=1)  # the last epoch is scored in any case

    @model_validator(mode="after")
    def _whole_pairs(self) -> Self:
        require_batch(self.batch, self.lanes, self.accumulate)
        return self

    @model_validator(mode="after")
    def _peak_is_highest(self) -> Self:
        how = self.optimizer
        made = f"lr {how.lr:g} x batch {self.batch} / 512" if how.scale_lr else "lr, with scale_lr off"
        require_rate("min_lr", how.min_lr, how.scaled_lr(self.batch), made)
        if how.warmup_epochs > 0:
            require_rate("warmup_lr", how.warmup_lr, how.scaled_lr(self.batch), made)
        return self


class TrainConfig(LoopConfig):
    """How students are trained; one for all of them, so that their comparison is fair. ``period`` K: null = V.

    ``score``: what the log's scored epochs hold, top-1 on the validation split, or ``all``: top-1, top-5, macro precision,
    recall and F1, as shares, and AUC, on it and on the training images without augmentation. ``result``: which weights are
    the student. DeiT takes the last ones. In short runs they depend more on chance than their average does. The weights
    that are not the student are kept beside it.
    """

    repeats: int = Field(default=3, ge=1, le=1_000)  # r
    period: int | None = Field(default=None, ge=1, le=1_000_000)  # K
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    verify_views: Literal["all", "first_cycle"] | Annotated[float, Field(ge=0, le=1)] = "all"
    score: Literal["top1", "all"] = "top1"
    result: Literal["last", "average"] = "last"

    @model_validator(mode="after")
    def _has_result(self) -> Self:
        if self.result == "average" and self.optimizer.ema_decay is None:
            raise ValueError("result: average needs optimizer.ema_decay, which is null; set it, or result: last")
        return self


class FitConfig(LoopConfig):
    """How a teacher is fitted: plain supervised training on the recipe's views, each view once."""

    smoothing: float = Field(default=0.1, ge=0, lt=1)
