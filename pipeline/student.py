"""The student: a timm vision transformer whose heads are both seen, in train and in eval mode (layer L1)."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from pipeline import difference, files, models, weights
from pipeline.config import Config
from pipeline.heads import Heads
from pipeline.runtime import IdentityError, IntegrityError, UsageError, say
from pipeline.views import Recipe

_HEADS = ("head.", "head_dist.")


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
    arch_args: models.ArchArgs = Field(default_factory=dict)
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
        models.check(self.arch, self.arch_args, self.initial)
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


class Student(nn.Module):
    """Wraps a timm vision transformer: images float (B, 3, R, R) -> Heads, the same in train and eval mode.

    timm gives both heads only in train mode after ``set_distilled_training``, else their mean.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # timm's attributes are unknown to torch.nn.Module
        self.distilled = hasattr(model, "head_dist")

    def forward(self, images: Tensor) -> Heads:
        if not self.distilled:
            return Heads(self.model(images))
        tokens = self.model.forward_features(images)  # (B, 2 + patches, D): class token, distillation token, patches
        drop = self.model.head_drop
        return Heads(self.model.head(drop(tokens[:, 0])), self.model.head_dist(drop(tokens[:, 1])))

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimisers leave undecayed: position embedding, class and distillation token.

        DeiT (timm 0.3.2) decayed the distillation token; timm >= 1.0 does not, and neither do we.
        """
        return {f"model.{name}" for name in self.model.no_weight_decay()}


def create(config: StudentConfig, classes: int, size: int | None = None) -> Student:
    """A new student with C = ``classes``, on the CPU, initialised from torch's global generator (seed it first).

    ``size`` is the recipe's R in pixels, checked where it is given. Raises UsageError if timm refuses the arguments,
    the model has no class token, or it takes another size.
    """
    model = models.create(config.arch, config.arch_args, classes, config.drop_path)
    if not hasattr(model, "cls_token") or not hasattr(model, "head"):
        raise UsageError(f"{config.arch}: expected a vision transformer with a class token (deit_* or vit_*)")
    expected = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None and expected is not None and tuple(expected) != (size, size):
        raise UsageError(
            f"{config.arch}: takes {expected[0]}x{expected[1]} px, the recipe draws {size}x{size}; "
            f"set img_size: {size} in the student's arch_args"
        )
    return Student(model)


def initial_state(config: StudentConfig) -> dict[str, Tensor]:
    """The weights that ``initial`` names, for ``load_initial``. Raises UsageError or IntegrityError."""
    if config.initial is None:
        raise UsageError("initial: expected the weights to start from, found null")
    if models.is_hub(config.initial):
        return models.from_hub(config.arch, {}, config.initial).state_dict()
    return weights.read_state(config.initial, config.initial_key)


def load_initial(student: Student, state: Mapping[str, Tensor]) -> None:
    """Starts ``student`` from trained weights of the same architecture, perhaps of another resolution or other classes.

    Positions are resampled to the student's grid (DeiT main.py:283-308); heads for another number of classes stay as
    initialised, all of them, and that is said. Anything else must fit strictly. Raises UsageError, also where one side
    has a distillation token and the other has not: DeiT then shifts every position by one.
    """
    model = student.model
    own = model.state_dict()
    state = dict(state)
    if ("dist_token" in state) != student.distilled:
        raise UsageError(
            f"initial: expected weights {'with' if student.distilled else 'without'} a distillation token; "
            "start from weights of the same kind (their names differ by '_distilled_')"
        )
    if "pos_embed" in state and state["pos_embed"].shape != own["pos_embed"].shape:
        state["pos_embed"] = _resample(state["pos_embed"], model)
    fresh = [name for name in own if name.startswith(_HEADS) and name in state and state[name].shape != own[name].shape]
    if fresh:
        found = state[fresh[0]].shape[0]
        say(f"initial: weights of {found} classes, data of {model.num_classes}: the heads start untrained")
        state.update({name: own[name] for name in own if name.startswith(_HEADS)})
    weights.load_strict(model, state, "initial")


def _resample(positions: Tensor, model: Any) -> Tensor:
    """Position embedding (1, tokens + patches, D) brought to the model's grid; the tokens' own rows are kept."""
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    patches = positions.shape[1] - prefix if positions.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    if patches < 1 or side * side != patches or positions.shape[2] != model.pos_embed.shape[2]:
        raise UsageError(
            f"initial: pos_embed: expected {prefix} tokens and a square grid of width "
            f"{model.pos_embed.shape[2]}, found {tuple(positions.shape)}"
        )
    grid = list(model.patch_embed.grid_size)
    say(f"initial: positions resampled from {side}x{side} to {grid[0]}x{grid[1]}")
    # antialias would change the bicubic kernel too (a = -0.5, not -0.75): this is what DeiT computes.
    return resample_abs_pos_embed(positions, grid, [side, side], prefix, interpolation="bicubic", antialias=False)


def export(
    student: Student, config: StudentConfig, class_names: Sequence[str], recipe: Recipe, directory: Path
) -> None:
    """Writes ``model.safetensors`` and ``config.json``, which ``timm.create_model("local-dir:DIRECTORY",
    pretrained=True)`` loads, with the recipe's size, normalisation and evaluation crop.

    timm's own forward in eval mode gives the mean of the two heads' logits. Each file is written durably and
    config.json last, without which timm loads nothing. Raises UsageError if the class names are not C.
    """
    model = student.model
    if len(class_names) != model.num_classes:
        raise UsageError(f"export: the student has {model.num_classes} classes, found {len(class_names)} class names")
    state = model.state_dict()
    weights.write_state(directory / "model.safetensors", state)
    description = {
        "architecture": config.arch.partition(".")[0],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "weights_hash": weights.state_hash(state),
        "model_args": dict(config.arch_args),
        "label_names": list(class_names),
        "pretrained_cfg": {
            **_views_seen(recipe),
            "fixed_input_size": True,
            "crop_mode": "center",
            "num_classes": model.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if student.distilled else "head",
        },
    }
    files.write_durably(directory / "config.json", files.canonical_json(description))


def _views_seen(recipe: Recipe) -> dict[str, Any]:
    """What decides the evaluation views, in the words of timm's pretrained_cfg."""
    return {
        "input_size": [3, recipe.size, recipe.size],
        "interpolation": recipe.interpolation,
        "crop_pct": recipe.crop_fraction,
        "mean": list(recipe.mean),
        "std": list(recipe.std),
    }


def require_trained_for(directory: Path, classes: Sequence[str], recipe: Recipe) -> None:
    """Raises IdentityError (exit 4) naming each field in which an exported student was trained for other classes or
    other evaluation views than these; of a model that says nothing about a field, any value is taken."""
    description = json.loads((directory / "config.json").read_bytes())
    known = description.get("pretrained_cfg", {}) | {"label_names": description.get("label_names")}
    expected = {"label_names": list(classes)} | _views_seen(recipe)
    found = {name: value if known.get(name) is None else known[name] for name, value in expected.items()}
    apart = difference.differences(expected, found)
    if apart:
        raise IdentityError(
            f"{directory}: trained for other classes or views:\n{difference.describe(apart)}\n"
            f"evaluate it with the shards and the params.yaml that it was trained with"
        )


def load(directory: Path) -> Student:
    """The exported student, built by timm and checked, in eval mode on the CPU. Raises UsageError or IntegrityError."""
    student = Student(models.from_directory(directory))
    expected = json.loads((directory / "config.json").read_bytes()).get("weights_hash")
    found = weights.state_hash(student.model.state_dict())
    if found != expected:
        raise IntegrityError(
            f"{directory / 'model.safetensors'}: expected weights {expected} by config.json, found {found}; "
            "export the student again with: python -m stages.train"
        )
    return student.eval()
