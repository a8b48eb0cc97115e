"""What a student is, as configuration."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.cache.codec import CodecName
from pipeline.runtime.config import NONE, ArchArgs, Config, Weights, WeightsKey
from pipeline.runtime.text import printable

Supervision = Literal["none", "cached", "live", "auto"]
SHOWN = frozenset({"reference", "note"})  # keys of a student that only the report shows


class StudentConfig(Config):
    """One student: its model, how it is distilled and where its targets come from: from ``cache`` alone, from ``teacher`` alone
    (live), from the cache and where it has none from the teacher (both), or from nowhere (neither: undistilled)."""

    recipe: str
    """Name of the recipe of its views."""
    training: str
    """Name of its training."""
    cache: str
    """Name of the cache that holds its targets, or ``none``."""
    teacher: str
    """Name of the teacher that labels live what the cache lacks, or ``none``."""
    parent: str
    """Name of a trained student whose weights it starts from, or ``none``."""
    arch: str
    """timm's name of a classifier."""
    arch_args: ArchArgs = Field(default_factory=dict)
    """timm's arguments of the model, ``proj_drop_rate`` and ``pos_drop_rate`` (dropout) among them, lists of numbers too;
    ``img_size`` follows the recipe's size unless it is set."""
    distillation: Literal["none", "soft", "hard"]
    """``soft`` learns the teacher's logits, ``hard`` its argmax, ``none`` the label alone."""
    token: bool = False
    """Distil through the distillation head of a ``*_distilled_*`` model, else through the class head. With ``distillation:
    none`` both heads learn the label, half each."""
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Weight of the distillation term; the label's is 1 - alpha (1: no label). The paper's soft results: 0.1."""
    tau: float = Field(default=1.0, gt=0.0)
    """Temperature of soft distillation; a higher one weighs small logits more. The paper's soft results: 3."""
    soft_reduction: Literal["batchmean", "elementmean"] = "batchmean"
    """Soft distillation divides by the batch, or as DeiT's code by the batch times C, so that its term is C times smaller."""
    soft_form: Literal["kl", "hinton"] = "kl"
    """``kl`` is DeiT's (1 - alpha) CE + alpha tau^2 KL; ``hinton`` is (1 - alpha) CE + 2 alpha tau^2 CE, whose second gradient
    is twice that of ``kl``."""
    codec: CodecName | None = None
    """Of a live teacher without a cache: its logits are rounded as a cache of this codec would; null keeps all bits."""
    drop_path: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Stochastic depth: share of the residual branches that are dropped in the last block, rising linearly from 0. A model
    that has none, as timm says, needs 0."""
    initial: Weights | None = None
    """Trained weights to start from: ``timm``, ``hf-hub:owner/name`` or a local file. Heads that they lack, or that are for
    other classes, start at zero. Null: all weights start untrained."""
    initial_key: WeightsKey | None = None
    """Which weights to take from a training checkpoint that ``initial`` names; null takes the first that is there, in this
    order."""
    reference: float | None = Field(default=None, ge=0.0, le=100.0)
    """A published top-1 in percent, which the report shows beside this student's; it changes no result."""
    note: str | None = Field(default=None, min_length=1, max_length=100)
    """A few words on ``reference``, shown behind it in brackets, at most 100 characters; it changes no result."""

    @property
    def supervision(self) -> Supervision:
        """Where the targets come from, which follows from the names of cache and teacher."""
        if self.cache == NONE:
            return "none" if self.teacher == NONE else "live"
        return "cached" if self.teacher == NONE else "auto"

    @model_validator(mode="after")
    def _consistent(self) -> "StudentConfig":
        if (self.distillation == "none") != (self.supervision == "none"):
            raise ValueError(
                f"distillation: {self.distillation!r} does not go with cache {self.cache!r} and teacher "
                f"{self.teacher!r}; a distilled student names a cache or a teacher, another one neither"
            )
        distilled = "_distilled_" in self.arch
        if self.token != distilled:
            raise ValueError(
                f"token: {self.arch} has {'a' if distilled else 'no'} distillation token, found token: "
                f"{self.token}; distilled and undistilled twins differ by '_distilled_' in the name"
            )
        if self.codec is not None and self.supervision != "live":
            raise ValueError(f"codec: {self.codec} is for a live teacher without a cache; a cache has its own codec")
        if self.note is not None and printable(self.note) != self.note:
            raise ValueError(f"note: expected one line without control characters, found {printable(self.note)}")
        if self.initial_key is not None and self.initial is None:
            raise ValueError(f"initial_key: {self.initial_key} picks weights where initial names none; remove it")
        if self.initial is not None and self.parent != NONE:
            raise ValueError(f"initial: {self.initial} and parent {self.parent} both give weights; keep one of them")
        return self
