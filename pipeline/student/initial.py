"""Starting a student from trained weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor, zeros_like

from pipeline.base import timm_models, weights
from pipeline.base.sums import require_sums
from pipeline.runtime.config import NONE, is_hub
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.student.config import StudentConfig
from pipeline.student.model import Student


def initial_state(config: StudentConfig, parent: Path) -> dict[str, Tensor] | None:
    """The weights that ``initial`` names, or those of the trained student in the directory ``parent``; None where the
    config names neither. Raises UsageError or IntegrityError."""
    if config.parent != NONE:
        require_sums(parent / "model.safetensors")
        return weights.read_state(parent / "model.safetensors")
    return None if config.initial is None else read_student_initial(config)


def read_student_initial(config: StudentConfig) -> dict[str, Tensor]:
    """The weights that ``initial`` names. Raises UsageError or IntegrityError."""
    assert config.initial is not None
    if is_hub(config.initial):
        return timm_models.from_hub(config.arch, {}, config.initial).state_dict()
    return weights.read_state(config.initial, config.initial_key)


def load_initial(student: Student, state: Mapping[str, Tensor], quiet: bool = False) -> None:
    """Starts ``student`` from trained weights of the same architecture, perhaps of another resolution or other classes.

    Positions are resampled to the student's grid (facebookresearch/deit main.py); heads that are missing (a self-supervised
    backbone) or for another number of classes start at zero, all of them, as in BiT, and that is said unless
    ``quiet``. Anything else must fit strictly. Raises UsageError, also where one side has a distillation token and the
    other has not: DeiT then shifts every position by one. DeiT's code refuses to fine-tune with distillation at all
    (NotImplementedError), so that its own 384 px result can't be had from it.
    """
    notes = list[str]()
    model = student.model
    own = model.state_dict()
    state = dict(state)
    if ("dist_token" in state) != student.distilled:
        raise UsageError(
            f"initial: expected weights {'with' if student.distilled else 'without'} a distillation token; "
            "start from weights of the same kind (their names differ by '_distilled_')"
        )
    if "pos_embed" in state and "pos_embed" in own and state["pos_embed"].shape != own["pos_embed"].shape:
        state["pos_embed"], sides = _resample(state["pos_embed"], model)
        notes.append(f"positions resampled from {sides}")
    classifiers = timm_models.classifiers_of(model)
    heads = [name for name in own if name.startswith(classifiers)]
    missing = [name for name in heads if name not in state]
    other = [name for name in heads if name in state and state[name].shape != own[name].shape]
    if missing or other:
        why = f"weights without {', '.join(missing)}"
        if not missing:
            why = f"weights of {state[other[0]].shape[0]} classes, data of {model.num_classes}"
        notes.append(f"{why}: the heads start at zero")
        # A projection head of self-supervision stands under the same name, and is no classifier.
        state = {name: value for name, value in state.items() if not name.startswith(classifiers)}
        state |= {name: zeros_like(own[name]) for name in heads}
    for note in [] if quiet else notes:
        say(f"initial: {note}")
    weights.load_strict(model, state, "initial")


def _resample(positions: Tensor, model: Any) -> tuple[Tensor, str]:
    """Position embedding (1, tokens + patches, D) brought to the model's grid, and from which to which; the tokens' own rows
    are kept."""
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 0)
    patches = positions.shape[1] - prefix if positions.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    if patches < 1 or side * side != patches or positions.shape[2] != model.pos_embed.shape[2]:
        raise UsageError(
            f"initial: pos_embed: expected {prefix} tokens and a square grid of width "
            f"{model.pos_embed.shape[2]}, found {tuple(positions.shape)}"
        )
    grid = list(model.patch_embed.grid_size)
    # antialias would change the bicubic kernel too (a = -0.5, not -0.75): this is what DeiT computes.
    resampled = resample_abs_pos_embed(positions, grid, [side, side], prefix, interpolation="bicubic", antialias=False)
    return resampled, f"{side}x{side} to {grid[0]}x{grid[1]}"
