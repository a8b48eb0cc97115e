"""What a student is, as configuration."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.base.weights_name import Key
from pipeline.cache.codec import CodecName
from pipeline.runtime.config import NONE, ArchArgs, Config
from pipeline.runtime.text import printable

Supervision = Literal["none", "cached", "live", "auto"]
SHOWN = frozenset({"reference", "note"})  # keys of a student that only the report shows


class StudentConfig(Config):
    """One student: its model, how it is distilled and where its targets come from.

    ``recipe``, ``training``, ``cache``, ``teacher`` and ``parent`` are names of other pieces of params.yaml. Targets come
    from ``cache`` alone (cached), from ``teacher`` alone (live), from the cache and where it has none from the teacher
    (both: auto), or from nowhere (neither). ``parent`` is a trained student whose weights it starts from.

    ``arch_args`` are timm's, ``proj_drop_rate`` and ``pos_drop_rate`` (dropout) among them. ``token``: distil through the
    distillation head of a ``*_distilled_*`` model; without it, distillation acts on the class head. A token with
    ``distillation: none`` learns the label in both heads, half each: the control of two class tokens, and how a distilled
    student is fine-tuned without a teacher. ``alpha`` weighs the distillation term, 1 - alpha the label's (1: no label);
    ``tau`` is soft distillation's temperature (the paper's soft results: tau 3, alpha 0.1; DeiT's code defaults to 1 and
    0.5). ``soft_form``: ``kl`` is DeiT's; ``hinton`` is (1 - alpha) CE + 2 alpha tau^2 CE, whose gradient is twice as
    large in the second term. ``codec``: of a live teacher without a cache, so that its logits are those that a cache of
    this codec returns; null keeps all bits. ``initial`` names weights to start from (a local file, "timm" or
    "hf-hub:owner/name"), ``initial_key`` their key in a training checkpoint. ``reference``: a published top-1 in percent,
    which the report shows beside this student's, and ``note`` a few words on it; they decide nothing.
    """

    recipe: str
    training: str
    cache: str
    teacher: str
    parent: str
    arch: str
    arch_args: ArchArgs = Field(default_factory=dict)
    distillation: Literal["none", "soft", "hard"]
    token: bool = False
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    tau: float = Field(default=1.0, gt=0.0)
    soft_reduction: Literal["batchmean", "elementmean"] = "batchmean"
    soft_form: Literal["kl", "hinton"] = "kl"
    codec: CodecName | None = None
    drop_path: float = Field(default=0.1, ge=0.0, lt=1.0)
    initial: str | None = None
    initial_key: Key | None = None
    reference: float | None = Field(default=None, ge=0.0, le=100.0)
    note: str | None = Field(default=None, min_length=1, max_length=100)

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
