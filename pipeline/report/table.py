"""The result table for the terminal and for a pull request. Imports nothing that takes time."""

from collections.abc import Mapping
from typing import Any


def table(summary: Mapping[str, Any]) -> str:
    """The result table as text, for the terminal."""
    lines = [f"{'':<16}{'distillation':<14}{'top-1 %':>8}{'95 % interval':>17}{'to twin':>9}{'agreement %':>13}"]
    for name, entry in summary["teachers"].items():
        lines.append(f"{name:<16}{'(teacher)':<14}{entry['top1']:>8.2f}{_interval(entry):>17}")
    for name, entry in summary["students"].items():
        twin = f"{entry['twin']['points']:+.2f}" if "twin" in entry else ""
        agreement = entry["agreement"].get(entry["teacher"], {}).get("percent")
        agreed = "" if agreement is None else f"{agreement:.2f}"
        row = f"{name:<16}{entry['distillation']:<14}{entry['top1']:>8.2f}{_interval(entry):>17}{twin:>9}{agreed:>13}"
        lines.append(row)
    return "\n".join(lines)


def _interval(entry: Mapping[str, Any]) -> str:
    return f"{entry['interval'][0]:.2f} to {entry['interval'][1]:.2f}"


def markdown(found: Mapping[str, Any]) -> str:
    """The result table for a pull request."""
    lines = [
        "| | distillation | top-1 % | interval | to its twin | p | agrees with teacher % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in found["teachers"].items():
        lines.append(f"| {name} (teacher) | | {entry['top1']:.2f} | {_interval(entry)} | | | |")
    for name, entry in found["students"].items():
        twin = entry.get("twin")
        points, p = (f"{twin['points']:+.2f}", f"{twin['p']:.3g}") if twin else ("", "")
        agreed = entry["agreement"].get(entry["teacher"], {}).get("percent")
        last = "" if agreed is None else f"{agreed:.2f}"
        cells = (name, entry["distillation"], f"{entry['top1']:.2f}", _interval(entry), points, p, last)
        lines.append("| " + " | ".join(cells) + " |")
    run = found["run"]
    lines += [
        "",
        f"{run['train']} training and {run['val']} validation images of {run['source']}, {run['classes']} classes.",
    ]
    lines.append(f"Intervals are Wilson's at {found['interval']} %; p is McNemar's exact test.")
    return "\n".join(lines) + "\n"
