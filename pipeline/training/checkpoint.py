"""Checkpoints of a training run: whole or absent, checked when read, the last two kept.

    DIRECTORY/step-00000800/state.pt         what torch saves
    DIRECTORY/step-00000800/checkpoint.json  step, bytes, sha256; written last

In a trial that wrote over the last checkpoint, 74 of 80 kills destroyed it; and torch does not notice a flipped bit.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base import files
from pipeline.runtime.errors import IntegrityError, first_line
from pipeline.runtime.progress import note_saved, say
from pipeline.runtime.text import clipped, whole_number

_VERSION = 1
_PREFIX = "step-"
_KEPT = 2  # so that a damaged one has one before it


def save(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes ``state`` as the checkpoint of ``step`` and deletes all but the newest two.

    ``state`` may hold tensors, numbers, text, bytes, None, and dicts, lists, tuples and sets of them, which can be read back
    without running code. One process writes; a step that was saved before is replaced. Raises TypeError for anything else,
    and OSError if the disk is full; the earlier checkpoints then stay as they are.
    """
    _require_data(state, "state")
    for leftover in directory.glob(f".{_PREFIX}*.partial"):  # of a killed save
        shutil.rmtree(leftover)
    target = directory / f"{_PREFIX}{step:08d}"
    # A step saved before was damaged, so that ``latest`` skipped it, or is of an earlier run.
    with files.whole_directory(target, ("state.pt", "checkpoint.json")) as fresh:
        _write(fresh, step, state)
    steps = dict(_checkpoints(directory))
    # A later step than this one is of a run that was given up; ``latest`` must not go on from it.
    gone = [number for number in steps if number > step] + sorted(n for n in steps if n <= step)[:-_KEPT]
    for number in gone:
        shutil.rmtree(steps[number])
    note_saved()
    return target


def _write(fresh: Path, step: int, state: dict[str, Any]) -> None:
    path = fresh / "state.pt"
    try:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk behind its own
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    files.write_durably(fresh / "checkpoint.json", files.canonical_json(_record(path, step)))


def _record(path: Path, step: int) -> dict[str, Any]:
    """The content of ``checkpoint.json`` for the file ``path``."""
    return {"version": _VERSION, "step": step, "bytes": path.stat().st_size, "sha256": files.sha256_file(path)}


def latest(directory: Path, take: Callable[[dict[str, Any]], None] | None = None) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint as (step, state) with tensors on the CPU, or None if there is none.

    It warns of a damaged one and takes the one before it, and so it does where ``take`` refuses a state, which fails in any way
    on one that is not of this run. Raises IntegrityError if there is no other.
    """
    found = sorted(_checkpoints(directory), reverse=True)
    problems = []
    for step, path in found:
        try:
            state = _read(path, step)
            if take is not None:
                _taken(take, state, path)
        except IntegrityError as error:
            problems.append(str(error))
            say(f"warning: {error}; going back to the checkpoint before it")
            continue
        return step, state
    if problems:
        raise IntegrityError(
            f"{directory}: all {len(problems)} checkpoints are damaged: {'; '.join(problems)}; "
            f"delete {directory} to train from the start"
        )
    return None


def _taken(take: Callable[[dict[str, Any]], None], state: dict[str, Any], path: Path) -> None:
    try:
        take(state)
    except Exception as error:  # torch's loaders fail in many ways on keys, shapes and types that are not theirs
        raise IntegrityError(f"{path}: not a state of this run ({clipped(first_line(error), 200)})") from None


def _checkpoints(directory: Path) -> Iterator[tuple[int, Path]]:
    for path in directory.glob(f"{_PREFIX}*"):
        number = whole_number(path.name.removeprefix(_PREFIX))
        if number is not None and path.is_dir():
            yield number, path


def steps_saved(directory: Path) -> list[int]:
    """The steps of the checkpoints in ``directory``, by their names only."""
    return [step for step, _ in _checkpoints(directory)]


def _read(path: Path, step: int) -> dict[str, Any]:
    file = path / "state.pt"
    try:
        expected = files.parse_json(files.read_small(path / "checkpoint.json"))
        found = _record(file, step)
    except (OSError, ValueError) as error:  # missing, unreadable, a directory in its place, a looping link, no JSON
        raise IntegrityError(f"{path}: not a whole checkpoint ({error})") from None
    if expected != found:
        wrong = [k for k in found if not isinstance(expected, dict) or expected.get(k) != found[k]]
        raise IntegrityError(f"{file}: damaged, {', '.join(wrong)} differ from checkpoint.json")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle is a program: it can fail in any way
        raise IntegrityError(f"{file}: torch can't read it ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise IntegrityError(f"{file}: expected a training state, found {type(state).__name__}")
    return state


def _require_data(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | tuple):
                raise TypeError(f"{where}: expected a plain key, found {type(key).__name__}")
            _require_data(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple | set):
        for i, item in enumerate(value):
            _require_data(item, f"{where}[{i}]")
    elif value is not None and not isinstance(value, Tensor | bool | int | float | str | bytes):
        raise TypeError(f"{where}: expected tensors, numbers and text, found {type(value).__name__}")


def rng_state() -> dict[str, Any]:
    """State of the generators that training draws from (dropout, stochastic depth) in this process."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: dict[str, Any]) -> None:
    """Sets what ``rng_state`` gave. The GPU's is set only where there was one and is one."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
