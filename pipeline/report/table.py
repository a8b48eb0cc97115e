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
    shown = {name: shortened(name, wide - 2) for name in names}
    lines = [f"{'':<{wide}}{'distillation':<14}{'top-1 %':>8}{'95 % interval':>17}{'to twin':>9}{'agreement %':>13}"]
    lines[0] += f"{'paper':>9}" if published else ""
    for name, entry in summary["teachers"].items():
        lines.append(f"{shown[name]:<{wide}}{'(teacher)':<14}{entry['top1']:>8.2f}{_interval(entry):>17}")
    for name, entry in summary["students"].items():
        twin = f"{entry['twin']['points']:+.2f}" if "twin" in entry else ""
        agreement = entry["agreement"].get(entry["teacher"], {}).get("percent")
        agreed = "" if agreement is None else f"{agreement:.2f}"
        row = f"{shown[name]:<{wide}}{entry['distillation']:<14}{entry['top1']:>8.2f}{_interval(entry):>17}"
        figure, note = published.get(name, ("", ""))
        lines.append(f"{row}{twin:>9}{agreed:>13}{figure:>9}{note}".rstrip())
    return "\n".join(lines)


def _published(students: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """A paper's figure and the note on it, in brackets behind a space, of each student; empty where nobody has any."""
    found = {}
    for name, entry in students.items():
        reference, note = entry.get("reference"), entry.get("note")
        found[name] = "" if reference is None else f"{reference:.1f}", "" if note is None else f" ({note})"
    return found if any(map(any, found.values())) else {}


def _interval(entry: Mapping[str, Any]) -> str:
    return f"{entry['interval'][0]:.2f} to {entry['interval'][1]:.2f}"


def markdown(found: Mapping[str, Any]) -> str:
    """The result table for a pull request."""
    published = _published(found["students"])
    paper = (" paper |", "---|", " |") if published else ("", "", "")  # in the head, below it, of a teacher
    lines = [
        f"| | distillation | top-1 % | interval | to its twin | p | agrees with teacher % |{paper[0]}",
        f"|---|---|---|---|---|---|---|{paper[1]}",
    ]
    for name, entry in found["teachers"].items():
        lines.append(f"| {name} (teacher) | | {entry['top1']:.2f} | {_interval(entry)} | | | |{paper[2]}")
    for name, entry in found["students"].items():
        twin = entry.get("twin")
        points, p = (f"{twin['points']:+.2f}", f"{twin['p']:.3g}") if twin else ("", "")
        agreed = entry["agreement"].get(entry["teacher"], {}).get("percent")
        last = "" if agreed is None else f"{agreed:.2f}"
        cells = [name, entry["distillation"], f"{entry['top1']:.2f}", _interval(entry), points, p, last]
        if published:
            cells.append("".join(published[name]).strip().translate(_PLAIN))
        lines.append("| " + " | ".join(cells) + " |")
    run = found["run"]
    lines += [
        "",
        f"{run['train']} training and {run['val']} validation images of {run['source']}, {run['classes']} classes.",
    ]
    lines.append(f"Intervals are Wilson's at {found['interval']} %; p is McNemar's exact test.")
    return "\n".join(lines) + "\n"
