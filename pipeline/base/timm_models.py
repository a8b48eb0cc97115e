"""timm models by name, for ``teacher`` and ``student`` only: created and filled strictly."""

import difflib
import json
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from timm.models import is_model, load_model_config_from_hf
from torch import nn

from pipeline.base.files import parse_json, read_small
from pipeline.runtime.config import ArchArgs
from pipeline.runtime.errors import IntegrityError, UsageError, first_line
from pipeline.runtime.text import clipped

_OURS = ("num_classes", "drop_path_rate", "pretrained", "pretrained_cfg", "checkpoint_path", "in_chans")
_MOST, _MOST_BLOCKS = 1 << 16, 1000  # of the numbers of a model, and of those that say how many blocks it has


def require_known(arch: str, arch_args: ArchArgs, weights: str | None = None) -> None:
    """Raises UsageError if timm has no such model or tag, an argument is not to be set, or ``weights`` can't name weights
    of ``arch``: "timm" needs the tag in the name.

    timm's default tag may be another model: that of regnety_160 is ``sw_in12k_ft_in1k``, not DeiT's teacher.
    """
    name, _, tag = arch.partition(".")
    if not is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(
            f"arch: timm has no model {name!r}{'; did you mean ' + ' or '.join(near) + '?' if near else ''}"
        )
    tagged = timm.list_models(f"{name}.*", pretrained=True)
    known = ", ".join(tagged) or "none"
    if tag and arch not in tagged:
        raise UsageError(f"arch: timm's {name} has no weights tagged {tag!r}; it has {known}")
    taken = sorted(set(arch_args) & set(_OURS))
    if taken:
        raise UsageError(f"arch_args: {', '.join(taken)} is set by the pipeline; remove it")
    if weights == "timm" and not tag:
        raise UsageError(f"arch: weights 'timm' need a name with its tag; {arch} has {known}")


def sized(arch: str, arch_args: ArchArgs, size: int) -> ArchArgs:
    """``arch_args`` for views of ``size`` px: ``img_size`` is added, if it is not set, for a model that takes one size only
    and another than this. Raises UsageError if timm refuses the arguments."""
    own = timm.get_pretrained_cfg(arch)
    if "img_size" in arch_args or own is None or not own.fixed_input_size or tuple(own.input_size[1:]) == (size, size):
        return arch_args
    with torch.device("meta"):
        patches = getattr(_create(arch, arch_args), "patch_embed", None)
    return {**arch_args, "img_size": size} if getattr(patches, "strict_img_size", True) else arch_args


def require_size(model: Any, arch: str, arch_args: ArchArgs, size: int) -> None:
    """Raises UsageError unless ``model`` takes views of ``size`` px and sees all of their pixels: where its patches do not
    divide them, timm drops the rest at the border. Pretrained models at their native size are exempt."""
    patches = getattr(model, "patch_embed", None)
    expected = getattr(patches, "img_size", None)
    if expected is not None and tuple(expected) != (size, size) and getattr(patches, "strict_img_size", True):
        raise UsageError(
            f"{arch}: takes {expected[0]}x{expected[1]} px, the recipe draws {size}x{size}; "
            f"set img_size: {size} in its arch_args, or leave it out"
        )
    sides = getattr(patches, "patch_size", 1)
    side, own = (sides if isinstance(sides, int) else sides[0]), timm.get_pretrained_cfg(arch)
    if size % side and ("patch_size" in arch_args or own is None or own.input_size[1] != size):
        raise UsageError(
            f"{arch}: its patches of {side}x{side} px do not divide views of {size}x{size} px, so {size % side} px at the "
            f"border would never be seen; set patch_size in its arch_args, or another size in the recipe"
        )


def create_model(arch: str, arch_args: ArchArgs, classes: int, drop_path: float = 0.0) -> nn.Module:
    """A new model on the CPU with C = ``classes`` outputs, initialised from torch's global generator.

    Raises UsageError if timm does not know the model, refuses the arguments, or has no stochastic depth for it.
    """
    require_known(arch, arch_args)
    try:
        return _create(arch, {**arch_args, "num_classes": classes, "drop_path_rate": drop_path or None})
    except UsageError as error:
        if drop_path and "unexpected keyword argument 'drop_path_rate'" in str(error):
            raise UsageError(f"{arch}: timm's model has no stochastic depth; set drop_path: 0") from None
        raise


def hub_classes(arch: str, name: str) -> int | None:
    """C of the hub's weights, where timm knows it without a network (0: they have no head); else None."""
    return timm.get_pretrained_cfg(arch).num_classes if name == "timm" else None


def classes_of(arch: str, state: Mapping[str, torch.Tensor]) -> int:
    """C of the weights ``state`` by the rows of their classifier; 1,000 where they have none, and so do not fit."""
    heads = [state.get(f"{name}weight") for name in _classifiers(timm.get_pretrained_cfg(arch))]
    return next((len(head) for head in heads if head is not None), 1000)


def classifiers_of(model: Any) -> tuple[str, ...]:
    """What the names of the classifier's weights begin with, such as ``("head.fc.",)``."""
    return _classifiers(timm.get_pretrained_cfg(model.pretrained_cfg["architecture"]))


def _classifiers(known: Any) -> tuple[str, ...]:
    """``classifiers_of`` from timm's pretrained_cfg, None where timm has none."""
    names = getattr(known, "classifier", None) or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def from_hub(arch: str, arch_args: ArchArgs, weights: str) -> nn.Module:
    """The model with the hub's weights and with as many classes as they have, loaded strictly by timm.

    Files are taken from the hub's cache (HF_HOME) where they are. Raises UsageError (no such weights, no network,
    another architecture) or IntegrityError (a damaged file).
    """
    require_known(arch, arch_args, weights)
    name = arch if weights == "timm" else weights
    try:
        model = _create(name, {**arch_args, "pretrained": True})
    except OSError as error:  # every error of huggingface_hub, its offline mode and the sockets below
        raise UsageError(
            f"{name}: could not get the weights: {first_line(error)}; fetch them once where there is a network "
            "(they stay in HF_HOME), or name a local file as weights"
        ) from None
    except SafetensorError as error:
        raise IntegrityError(f"{name}: damaged weights in the hub's cache ({error}); delete them there") from None
    found = model.pretrained_cfg["architecture"]
    if found != arch.partition(".")[0]:
        raise UsageError(f"{weights}: expected weights of {arch}, found {found}; correct arch or weights")
    return model


def description(
    model: Any, arch: str, arch_args: ArchArgs, labels: Sequence[str], hashed: str, views: Mapping[str, Any]
) -> dict[str, Any]:
    """``config.json`` beside the weights of ``model`` (``hashed``: their ``state_hash``), from which ``timm.create_model(
    "local-dir:...")`` loads it; ``views`` says how it sees an image, in the words of timm's pretrained_cfg."""
    return {
        "architecture": arch.partition(".")[0],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "weights_hash": hashed,
        "model_args": dict(arch_args),
        "label_names": list(labels),
        "pretrained_cfg": {**views, "crop_mode": "center", "num_classes": model.num_classes},
    }


def from_directory(directory: Path) -> nn.Module:
    """The model that ``student.export`` wrote, or any that timm's ``local-dir:`` loads.

    Raises UsageError (missing, does not fit) or IntegrityError (damaged).
    """
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise UsageError(f"{directory / name}: no such file; write it with: python -m stages.train --student NAME")
    try:
        config = parse_json(read_small(directory / "config.json"))
    except ValueError as error:
        raise IntegrityError(
            f"{directory / 'config.json'}: damaged ({error}); write it again with stages.train"
        ) from None
    own = config.get("model_args") if isinstance(config, dict) else None
    _require_bounded(own if isinstance(own, dict) else {}, f"{directory / 'config.json'}: model_args")
    try:
        return _create(f"local-dir:{directory}", {"pretrained": True})
    except SafetensorError as error:
        raise IntegrityError(f"{directory}: damaged weights ({error}); run the stage that writes them again") from None


def _create(name: str, arguments: Mapping[str, object]) -> Any:
    try:
        if name.startswith("hf-hub:"):
            own = load_model_config_from_hf(name.removeprefix("hf-hub:"))[2]
            _require_bounded(own or {}, f"{name}: model_args of its config.json")
        _require_bounded(arguments, name)
        return timm.create_model(name, **arguments)
    except (OSError, json.JSONDecodeError, SafetensorError, UsageError):  # a damaged config or file: the caller's
        raise
    except Exception as error:  # arguments of any kind meet code of any kind
        shown = {key: value for key, value in arguments.items() if value is not None}
        raise UsageError(f"{name}: timm can't build it with {shown}: {_reason(error)}; correct arch_args") from None


def _require_bounded(arguments: Mapping[str, Any], where: str) -> None:
    """Raises UsageError for a number that no model has: timm would build 10^9 blocks until it is killed."""
    for key, value in arguments.items():
        most = _MOST_BLOCKS if any(word in key for word in ("depth", "layer", "blocks")) else _MOST
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not -most <= number <= most:
                raise UsageError(f"{where}: {key}: {clipped(repr(number), 40)}, the largest number allowed is {most}")


def _reason(error: Exception) -> str:
    """An error's text; if it has none, such as an assertion of timm's, the line that raised it."""
    if str(error).strip():
        return first_line(error) if isinstance(error, RuntimeError) else str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}: {last.line}"


def autocast_type(precision: Literal["fp32", "bf16", "fp16"]) -> torch.dtype | None:
    """The type in which autocast computes; None for fp32, which needs no autocast."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
