"""timm models by name, for ``teacher`` and ``student`` only: created and filled strictly."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import is_model
from torch import nn

from pipeline.base.files import parse_json
from pipeline.runtime.config import ArchArgs
from pipeline.runtime.errors import IntegrityError, UsageError, first_line

_OURS = ("num_classes", "drop_path_rate", "pretrained", "pretrained_cfg", "checkpoint_path", "in_chans")


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


def create(arch: str, arch_args: ArchArgs, classes: int, drop_path: float = 0.0) -> nn.Module:
    """A new model on the CPU with C = ``classes`` outputs, initialised from torch's global generator.

    Raises UsageError if timm does not know the model or refuses the arguments.
    """
    require_known(arch, arch_args)
    return _create(arch, {**arch_args, "num_classes": classes, "drop_path_rate": drop_path or None})


def hub_classes(arch: str, name: str) -> int | None:
    """C of the hub's weights, where timm knows it without a network; else None."""
    return timm.get_pretrained_cfg(arch).num_classes if name == "timm" else None


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


def from_directory(directory: Path) -> nn.Module:
    """The model that ``student.export`` wrote, or any that timm's ``local-dir:`` loads.

    Raises UsageError (missing, does not fit) or IntegrityError (damaged).
    """
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise UsageError(f"{directory / name}: no such file; write it with: python -m stages.train")
    try:
        parse_json((directory / "config.json").read_bytes())
    except ValueError as error:
        raise IntegrityError(
            f"{directory / 'config.json'}: damaged ({error}); write it again with stages.train"
        ) from None
    try:
        return _create(f"local-dir:{directory}", {"pretrained": True})
    except SafetensorError as error:
        raise IntegrityError(f"{directory}: damaged weights ({error}); run the stage that writes them again") from None


def _create(name: str, arguments: Mapping[str, object]) -> Any:
    try:
        return timm.create_model(name, **arguments)
    except (OSError, json.JSONDecodeError):  # the hub's, some of which are ValueErrors as well; a damaged config
        raise
    except (TypeError, AssertionError, ValueError, ZeroDivisionError, RuntimeError) as error:
        shown = {key: value for key, value in arguments.items() if value is not None}
        raise UsageError(f"{name}: timm can't build it with {shown}: {error}; correct arch_args") from None
