"""What a student is, as configuration."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.runtime.config import ArchArgs, Config


class WaitsFor(Config):
    """Paths on which the student's train stage depends in dvc.yaml; of what it does not need, any earlier output."""

    cache: str
    teacher: str


def waits_for(supervise: str, cache: str, teacher: str) -> WaitsFor:
    """What a student with this supervision waits for besides the shards. DVC wants a path in any case and no path
    twice, so what is not needed is named by a manifest, which the shards bring anyway."""
    return WaitsFor(
        cache=f"work/caches/{cache}" if supervise in ("cached", "auto") else "work/shards/train/manifest.json",
        teacher=f"work/teachers/{teacher}" if supervise in ("live", "auto") else "work/shards/val/manifest.json",
    )


class StudentConfig(Config):
    """One student: its model, how it is distilled and where its targets come from.

    ``token``: distil through the distillation head of a ``*_distilled_*`` model; without it, distillation acts on the
    class head. ``alpha`` weighs the distillation term, 1 - alpha the label's; ``tau`` is soft distillation's
    temperature (the paper's soft results: tau 3, alpha 0.1). ``initial`` names weights to start from (a local file,
    "timm" or "hf-hub:owner/name"), ``initial_key`` their key in a training checkpoint.
    """

    arch: str
    arch_args: ArchArgs = Field(default_factory=dict)
    distillation: Literal["none", "soft", "hard"]
    token: bool = False
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    tau: float = Field(default=1.0, gt=0.0)
    soft_reduction: Literal["batchmean", "elementmean"] = "batchmean"
    supervise: Literal["none", "cached", "live", "auto"]
    drop_path: float = Field(default=0.1, ge=0.0, lt=1.0)
    initial: str | None = None
    initial_key: Literal["model", "model_ema", "state_dict", "state_dict_ema"] | None = None
    waits_for: WaitsFor

    @model_validator(mode="after")
    def _consistent(self) -> "StudentConfig":
        if (self.distillation == "none") != (self.supervise == "none"):
            raise ValueError(
                f"supervise: distillation {self.distillation!r} does not go with supervise "
                f"{self.supervise!r}; both are 'none', or neither"
            )
        distilled = "_distilled_" in self.arch
        if self.token and self.distillation == "none":
            raise ValueError("token: a distillation token needs distillation 'soft' or 'hard', found 'none'")
        if self.token != distilled:
            raise ValueError(
                f"token: {self.arch} has {'a' if distilled else 'no'} distillation token, found token: "
                f"{self.token}; distilled and undistilled twins differ by '_distilled_' in the name"
            )
        return self
