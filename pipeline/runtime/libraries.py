"""What is installed: compared with the project's own pins, recorded with a run, and a compiler for torch.compile."""

import functools
import importlib.metadata
import os
import re
import shutil
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say

_REQUIRED = ("timm",)  # 1.0.20 initialises models otherwise: another student under the same configuration
DECIDING = ("torch", "timm", "numpy")  # of a training's numbers, beside the type of the device


def versions(device: str) -> dict[str, str]:
    """What decides a training's last bits: the ``DECIDING`` libraries' versions and the type of the device."""
    return installed(DECIDING) | {"device": device}


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of libraries by name, "none" for one that is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


@functools.cache
def require_libraries(pins: Path = ROOT / "pyproject.toml") -> None:
    """Compares what is installed with the project's pins, once in a process; a copy of the code without the file has none.
    Raises UsageError for a timm below its pin; warns of other libraries below theirs or without their compiled part."""
    for text in slow():
        say(f"warning: {text}")
    if not pins.is_file():
        return
    below = {}
    least = lowest(tomllib.loads(pins.read_text(encoding="utf-8")))
    for name, found in installed(least).items():
        if found != "none" and _release(found) < _release(least[name]):
            below[name] = f"{name} {found}, the project needs at least {least[name]}"
    for name in _REQUIRED:
        if name in below:
            raise UsageError(
                f"found {below[name]}: it makes other models of the same configuration; install what uv.lock names: "
                f"uv sync --frozen, or pip install '{name}>={below[name].rpartition(' ')[2]}'"
            )
    for text in below.values():
        say(f"warning: found {text}; install what uv.lock names: uv sync --frozen")


def slow() -> list[str]:
    """A sentence for each library that has no compiled part here: what that costs and what to install."""
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        import google_crc32c  # zarr takes it, too
    if google_crc32c.implementation == "c":
        return []
    return [
        "google_crc32c runs in pure Python here, and takes 13 ms to check a photograph in place of 0.02; install it with its "
        "compiled part: pip install --force-reinstall --only-binary=google-crc32c google-crc32c"
    ]


def lowest(project: Mapping[str, object]) -> dict[str, str]:
    """The lower bounds of a pyproject.toml's dependencies, by name."""
    section = project.get("project")
    listed = section.get("dependencies", []) if isinstance(section, Mapping) else []
    found = (re.match(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)", entry) for entry in listed)
    return {match[1]: match[2] for match in found if match}


def compiler_missing() -> str:
    """What torch.compile lacks here, "" for nothing: a C++ compiler, which CXX may name. (On a GPU Triton needs a C
    compiler, which comes with it.)"""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return "" if any(map(shutil.which, names)) else f"no C++ compiler ({', '.join(names)})"


def require_compiler(key: str) -> None:
    """Raises UsageError if torch.compile lacks a compiler; ``key`` is the one of params.yaml that asks for it."""
    if lacking := compiler_missing():
        raise UsageError(
            f"{key}: true needs a compiler, and here is {lacking}; install g++, set CXX, or set it to false"
        )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them: "2.15.0+cpu" is (2, 15, 0), and so is "2.15"."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    return tuple(numbers + [0] * (3 - len(numbers)))
