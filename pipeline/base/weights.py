"""Weights as a plain mapping of names to tensors: read without running code, hashed, loaded strictly."""

import argparse
import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from timm.models import clean_state_dict
from torch import Tensor, nn

from pipeline.base import files
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError, first_line
from pipeline.runtime.text import clipped, few, few_names

# Where training checkpoints keep their weights, in the order of choice. DeiT stores an EMA but never evaluated or published
# it (facebookresearch/deit main.py), so it is taken only on request.
KEYS = ("model", "state_dict", "model_ema", "state_dict_ema")
_ZIP = b"PK"
_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # how torch's old format begins: its magic number as a pickle
_POINTER = b"version https://git-lfs"


def read_state(source: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """The weights in a ``.safetensors`` file or a torch checkpoint (``.pth``, ``.pt``, ``.bin``, ``.tar``), on the CPU.

    Pickles are read with ``weights_only=True``; of classes only ``argparse.Namespace`` is let in, which DeiT's
    checkpoints hold. ``key`` names one of KEYS, e.g. ``model_ema``; else the first that is there, or the mapping
    itself.

    Raises UsageError (no such file, code in the pickle, no weights in it) or IntegrityError (damaged).
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such weights file; expected .safetensors or a torch checkpoint "
            "(python -m stages.fit_teacher --teacher NAME writes a teacher's)"
        )
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_POINTER):
        raise UsageError(f"{path}: a Git LFS pointer and not the weights; fetch them with: git lfs pull")
    if path.suffix == ".safetensors" and not start.startswith(_ZIP):
        content = _read_safetensors(path)
    elif re.match(rb"\x80[\x02-\x05]", start) and len(start) > len(_MAGIC) and not start.startswith(_MAGIC):
        raise UsageError(
            f"{path}: a plain Python pickle and not a torch checkpoint: loading it could run any code; where you trust "
            f"who made it, save a plain mapping of names to tensors from it, best as .safetensors"
        )
    else:
        content = _read_pickle(path)
    return _tensors(_choose(content, key, path), path)


def _read_safetensors(path: Path) -> object:
    try:
        return load_safetensors(path.read_bytes())
    except (SafetensorError, KeyError, ValueError, TypeError) as error:  # the last three: a type that torch lacks
        raise IntegrityError(f"{path}: damaged safetensors file ({error}); copy or download it again") from None


def _read_pickle(path: Path) -> object:
    # torch does not check the CRCs of its zip: a flipped bit would load silently (200 of 200 tried).
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise IntegrityError(f"{path}: checksum of member {damaged!r} is wrong; copy or download it again")
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            path.open("rb") as file,
        ):  # torch goes by a path's suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except PipelineError:
        raise
    except Exception as error:  # zipfile, torch and its unpickler fail in many ways on damaged bytes
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in str(error) or "Trying to" in str(error)):
            raise UsageError(
                f"{path}: refused, loading it would run code or needs classes that are not allowed"
                f"{_globals(path)}; save a plain mapping of names to tensors, best as .safetensors"
            ) from None
        raise IntegrityError(
            f"{path}: not a whole torch checkpoint{_reason(error)}; copy or download it again"
        ) from None


def _reason(error: Exception) -> str:
    """The first line of torch's error, unless it advises to read the file with weights_only=False."""
    text = first_line(error)
    return "" if "weights_only" in text else f" ({clipped(text, 200)})"


def _globals(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, pickle.UnpicklingError):  # the old format is no zip and can't be listed
        return ""
    return f" ({', '.join(sorted(names))})" if names else ""


def _choose(content: object, key: str | None, path: Path) -> object:
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a mapping of names to tensors, found {type(content).__name__}")
    if key is not None:
        if content.get(key) is None:
            found = few_names(list(content))
            raise UsageError(f"{path}: expected weights under {key!r}, found the keys {found}")
        return content[key]
    for name in KEYS:
        if isinstance(content.get(name), dict):
            return content[name]
    return content


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path}: expected a mapping of names to tensors, found {type(content).__name__} or nothing")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UsageError(f"{path}: expected only tensors, found {type(value).__name__} under {name!r}")
    state = clean_state_dict(content)  # without the prefixes of DistributedDataParallel and torch.compile
    if len(state) < len(content):
        raise UsageError(f"{path}: two tensors have one name without their wrapper's prefix")
    return {name: value.detach() for name, value in state.items()}


def state_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 in hex over names, dtypes, shapes and bytes, sorted by name: one value for one set of weights."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(files.canonical_json([name, str(value.dtype), list(value.shape)]))
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes a ``.safetensors`` file durably: whole or absent, and the same bytes for the same weights. Raises IntegrityError
    for values that are not finite."""
    require_finite(state, f"{path.parent.name}/{path.name}, not written")
    plain = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
    files.write_durably(path, save_safetensors(plain))


def require_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raises IntegrityError that names the tensors of ``state`` with values that are nan or infinite."""
    numbers = {name: value for name, value in state.items() if value.is_floating_point() and not value.is_meta}
    wrong = [name for name, value in numbers.items() if not torch.isfinite(value).all()]
    if wrong:
        raise IntegrityError(
            f"{where}: damaged weights: nan or inf in {few(wrong, 4)}; copy them again, or train them again"
        )


def load_strict(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copies ``state`` into ``model``; names and shapes must agree exactly, values are cast to the model's dtype.

    Raises UsageError that lists what is missing, what is too much and which shapes differ, and IntegrityError for values
    that are not finite; then nothing is copied.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"not in the model {name}" for name in state if name not in own]
    problems += [
        f"{name}: expected {tuple(own[name].shape)}, found {tuple(state[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if problems:
        raise UsageError(
            f"{where}: the weights do not fit the model: {few(problems, between='; ')}; choose weights of this "
            f"architecture and number of classes"
        )
    require_finite(state, where)
    model.load_state_dict(dict(state), strict=True)
