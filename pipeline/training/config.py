"""How models are trained, as configuration."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.base.constraints import require_batch, require_rate
from pipeline.runtime.config import Config


class OptimizerConfig(Config):
    """The optimizer, its learning rate over the steps, and the average of the weights."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """``adamw`` decays the weights themselves, ``adam`` adds the decay to the gradient, ``sgd`` is Nesterov's."""
    lr: float = Field(default=5e-4, gt=0)
    """Learning rate after the warm-up for a batch of 512; scaled linearly with the batch, as DeiT does."""
    scale_lr: bool = True
    """Off: ``lr`` is used as it stands, whatever the batch."""
    momentum: float = Field(default=0.9, gt=0, lt=1)
    """Momentum of ``sgd``."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of the weights per step, times the learning rate; biases, norms and tokens are not decayed."""
    warmup_epochs: float = Field(default=5.0, ge=0, le=100_000)
    """Epochs in which the learning rate rises linearly from ``warmup_lr``; 0 is no warm-up. A cosine follows."""
    warmup_lr: float = Field(default=1e-6, ge=0)
    """Learning rate of the first step, never scaled; not above the scaled ``lr``."""
    min_lr: float = Field(default=1e-5, ge=0)
    """Learning rate at the end, never scaled; not above the scaled ``lr``."""
    clip_grad: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; null does not clip, as DeiT."""
    ema_decay: float | None = Field(default=0.99996, gt=0, lt=1)
    """Decay per step of the average of the weights; null keeps no average."""
    ema_warmup: bool = False
    """On: the decay grows as 1 - (1 + step)^(-2/3) up to ``ema_decay`` (timm's ModelEmaV3), which short runs need."""

    def scaled_lr(self, batch: int) -> float:
        """The learning rate after the warm-up of a training in batches of ``batch``."""
        return self.lr * batch / 512 if self.scale_lr else self.lr


class LoopConfig(Config):
    """Fields that fitting a teacher and training a student share; never used by itself."""

    seed: int = Field(default=0, ge=0, lt=2**62)
    """Seed of initial weights, stochastic depth and the order of the data."""
    epochs: float = Field(gt=0, le=100_000)
    """Length of the training; an epoch is N / B steps."""
    batch: int = Field(ge=2, le=1_000_000)
    """Views in one step, over all ranks (B); a multiple of 2 x ``lanes``. The learning rate is scaled with it."""
    lanes: int = Field(default=1, ge=1, le=65_536)
    """Streams of visits that feed a step (L). The number of ranks must divide it; the order of the data depends on it and not
    on the ranks. ``lanes`` x ``window`` visits are held in memory."""
    window: int = Field(default=4, ge=1, le=65_536)
    """Visits that a lane shuffles together (W); more of them shuffle more widely and need more memory."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""
    accumulate: int = Field(default=1, ge=1)
    """A step's gradient is the average over so many parts of its batch, one after the other: less memory, the same order of
    samples and learning rate. Batch norms see a part."""
    sync_bn: bool = False
    """On: batch norms take their statistics over the ranks of a step, on NVIDIA GPUs. Off: over each rank's share, so that a
    model with batch norms learns something else on another number of ranks, and keeps the first rank's statistics."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of autocast; fp16 scales the loss so that small gradients survive."""
    tf32: bool = False
    """On: faster, less exact float32 products on NVIDIA GPUs. Off: as torch has it (off for products, on for convolutions). A
    teacher that labels never uses it."""
    compile: bool = False
    """Compile the model with torch.compile: faster after some minutes of compiling."""
    labelled_per_class: int | None = Field(default=None, ge=1)
    """So many images of each class keep their labels; null: all. A fitted teacher and an undistilled student then see only
    those, for as many steps."""
    labelled_seed: int = Field(default=0, ge=0)
    """Seed of which images keep their labels; with one seed, those of 10 per class are among those of 20."""
    checkpoint_steps: int = Field(default=1000, ge=1)
    """Steps between checkpoints: what a kill can cost. The result does not depend on it."""
    score_epochs: int = Field(default=1, ge=1)
    """Epochs between scores on the validation split; the last epoch is always scored."""

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
    """How students are trained. Students that share a training can be compared; a change trains all of them again."""

    repeats: int = Field(default=3, ge=1, le=1_000)
    """Views that are drawn when an image is decoded (r; DeiT: 3); divides the cache's ``group``. More of them decode less."""
    period: int | None = Field(default=None, ge=1, le=1_000_000)
    """Views of each image that a student cycles through (K), a multiple of ``repeats``. Null: the cache's V, and without a
    cache always new views."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing."""
    verify_views: Literal["all", "first_cycle"] | Annotated[float, Field(ge=0, le=1)] = "all"
    """How many views are compared with the pixels that the teacher saw: ``all``, those of the ``first_cycle``, or a share."""
    score: Literal["top1", "all"] = "top1"
    """What the log's scored epochs hold: ``top1`` on the validation split, or ``all``: top-1, top-5, macro precision, recall,
    F1 and AUC on it and on training images without augmentation (4 bytes per image and class on each rank)."""
    result: Literal["last", "average"] = "last"
    """Which weights are the student: the ``last``, as DeiT's, or their ``average``, which depends less on chance in short
    runs. The others are kept beside it (``ema/`` or ``last/``)."""

    @model_validator(mode="after")
    def _has_result(self) -> Self:
        if self.result == "average" and self.optimizer.ema_decay is None:
            raise ValueError("result: average needs optimizer.ema_decay, which is null; set it, or result: last")
        return self


class FitConfig(LoopConfig):
    """How a teacher is fitted: plain supervised training on the recipe's views, each view once."""

    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing."""
