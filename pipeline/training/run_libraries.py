"""Which libraries and which type of device made a run: a finished run is reused only if they are unchanged.

    RUN/libraries.json   [{"step": from which on, "libraries": {...}}, ...], written before the first step under them

The key of a run holds configuration, data and code, but no library. With other libraries an unfinished run goes on, with a
warning and a record. A finished run of other libraries stays, for the machine that has them, and a run beside it is made:
RUN-2, RUN-3 and so on.
"""

import itertools
from pathlib import Path
from typing import Any

import torch

from pipeline.base.files import canonical_json, parse_json, write_durably
from pipeline.runtime.libraries import versions
from pipeline.runtime.machine import rank
from pipeline.runtime.progress import say
from pipeline.training.checkpoint import steps_saved

_FILE = "libraries.json"


def place_of(directory: Path, steps: int, device: torch.device) -> Path:
    """The directory of the run of ``steps`` steps, finished or not: ``directory`` or one beside it. Every rank gets the same
    answer, since ranks write only after all have asked."""
    here = versions(device.type)
    for number in itertools.count(1):
        place = directory if number == 1 else directory.with_name(f"{directory.name}-{number}")
        finished = max(steps_saved(place), default=0) >= steps
        made_with = _history(place)
        if not finished or (made_with and made_with[-1]["libraries"] == here):
            return place
        said = _changes(made_with[-1]["libraries"], here) if made_with else "it does not say with which libraries"
        say(f"{place}: a finished run, made elsewhere ({said}); not taken")
    raise AssertionError("the numbers do not end")


def note_libraries(title: str, place: Path, step: int, device: torch.device) -> None:
    """Records the libraries with which the run in ``place`` goes on from ``step``, and warns of changes."""
    here, made_with = versions(device.type), _history(place)
    if step and made_with and made_with[-1]["libraries"] != here:
        changed = _changes(made_with[-1]["libraries"], here)
        say(f"warning: {title}: goes on from step {step} with other libraries ({changed}): not to the same bits")
    if rank() == 0 and (not made_with or made_with[-1]["libraries"] != here):
        kept = [entry for entry in made_with if entry["step"] < step]  # none for a run that starts again
        write_durably(place / _FILE, canonical_json([*kept, {"step": step, "libraries": here}]))


def _history(place: Path) -> list[dict[str, Any]]:
    """The entries of ``libraries.json``; none if it is absent or damaged."""
    try:
        found = parse_json((place / _FILE).read_bytes())
        return [{"step": int(entry["step"]), "libraries": dict(entry["libraries"])} for entry in found]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _changes(before: dict[str, str], now: dict[str, str]) -> str:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"{name} {before.get(name, 'none')}, here {now.get(name, 'none')}" for name in names)
