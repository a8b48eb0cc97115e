"""The result table for the terminal and for a pull request. Imports nothing that takes time."""

import shutil
from collections.abc import Mapping
from typing import Any

from pipeline.runtime.text import shortened

_PLAIN = {ord(sign): f"&#{ord(sign)};" for sign in "|<>&`*_[]\\@~"}  # what Markdown reads as more than a character


def table(summary: Mapping[str, Any]) -> str:
    """The result table as text, for the terminal; names that are too long for it are cut in their middle."""
    names = [*summary["teachers"], *summary["students"]]
    published = _published(summary["students"])
    most = max(16, shutil.get_terminal_size().columns - (70 if published else 61))
    wide = min(most, max(16, *(len(name) + 2 for name in names))) if names else 16

    def line(name: str, kind: str, top1: str, interval: str, twin: str = "", agreed: str = "", paper: str = "") -> str:
        return (
            f"{shortened(name, wide - 2):<{wide}}{kind:<14}{top1:>8}{interval:>17}{twin:>9}{agreed:>13}{paper}".rstrip()
        )

    head = f"{'paper':>9}" if published else ""
    lines = [line("", "distillation", "top-1 %", "95 % interval", "to twin", "agreement %", head)]
    lines += [line(name, "(teacher)", *_cells(entry)[:2]) for name, entry in summary["teachers"].items()]
    for name, entry in summary["students"].items():
        top1, interval, twin, _, agreed = _cells(entry)
        figure, note = published.get(name, ("", ""))
        lines.append(line(name, entry["distillation"], top1, interval, twin, agreed, f"{figure:>9}{note}"))
    return "\n".join(lines)


def markdown(found: Mapping[str, Any]) -> str:
    """The result table for a pull request."""
    published = _published(found["students"])
    paper = (" paper |", "---|", " |") if published else ("", "", "")  # in the head, below it, of a teacher
    lines = [
        f"| | distillation | top-1 % | interval | to its twin | p | agrees with teacher % |{paper[0]}",
        f"|---|---|---|---|---|---|---|{paper[1]}",
    ]
    for name, entry in found["teachers"].items():
        lines.append(f"| {name} (teacher) | | {' | '.join(_cells(entry)[:2])} | | | |{paper[2]}")
    for name, entry in found["students"].items():
        figure = ["".join(published[name]).strip().translate(_PLAIN)] if published else []
        lines.append(f"| {' | '.join([name, entry['distillation'], *_cells(entry), *figure])} |")
    run = found["run"]
    images = f"{run['train']} training and {run['val']} validation images of {run['source']}, {run['classes']} classes."
    lines += ["", images, f"Intervals are Wilson's at {found['interval']} %; p is McNemar's exact test."]
    return "\n".join(lines) + "\n"


def _cells(entry: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Top-1, its interval, points to the twin, p and agreement with the teacher; empty where there is none."""
    low, high = entry["interval"]
    points, p = (f"{entry['twin']['points']:+.2f}", f"{entry['twin']['p']:.3g}") if "twin" in entry else ("", "")
    agreed = entry.get("agreement", {}).get(entry.get("teacher"), {}).get("percent")
    return f"{entry['top1']:.2f}", f"{low:.2f} to {high:.2f}", points, p, "" if agreed is None else f"{agreed:.2f}"


def _published(students: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """A paper's figure and the note on it, in brackets behind a space, of each student; empty where nobody has any."""
    found = {}
    for name, entry in students.items():
        reference, note = entry.get("reference"), entry.get("note")
        found[name] = "" if reference is None else f"{reference:.1f}", "" if note is None else f" ({note})"
    return found if any(map(any, found.values())) else {}
