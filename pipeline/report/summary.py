"""The numbers of the report, and its table for the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.runtime.errors import IntegrityError, UsageError


def summarise(work: Path, cache: str, teacher: str, students: Mapping[str, str]) -> dict[str, Any]:
    """``summary.json``: ``teacher.top1``, ``students.<name>.top1`` and ``seconds``; percentages.

    ``work`` is where the other stages wrote, ``cache`` and ``teacher`` are names, ``students`` maps each name to its
    distillation. Raises UsageError for a student that was not evaluated, IntegrityError for damaged scores.
    """
    val = Shards.open(work / "shards" / "val")
    found: dict[str, Any] = {}
    for name, distillation in students.items():
        path = work / "eval" / name / "metrics.json"
        if not path.is_file():
            raise UsageError(f"{path}: no such file; run python -m stages.evaluate for student {name}")
        try:
            found[name] = {"distillation": distillation} | _scores(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            again = "write it again with: python -m stages.evaluate"
            raise IntegrityError(f"{path}: not the scores of a student ({error!r}); {again}") from None
    times = [json.loads(path.read_text()) for path in sorted((work / "seconds").glob("*.json"))]
    known = ("", *students)  # "train:soft" counts while there is a student soft
    return {
        "teacher": {"name": teacher, "top1": teacher_top1(open_cache(work / "caches" / f"{cache}-val"), val)},
        "students": found,
        "seconds": {time["stage"]: time["seconds"] for time in times if time["stage"].partition(":")[2] in known},
    }


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A student's row of the report from its ``metrics.json``."""
    heads = metrics["heads"]
    best = "fused" if "fused" in heads else "class"
    return {
        "top1": heads[best]["top1"],
        "class": heads["class"]["top1"],
        "distillation_head": heads["distillation"]["top1"] if "distillation" in heads else None,
        "fused": heads["fused"]["top1"] if "fused" in heads else None,
        "ema": metrics["ema"][best]["top1"] if "ema" in metrics else None,
        "agreement": heads[best].get("agreement"),
        "live_fraction": metrics["live_fraction"],
    }


def teacher_top1(cache: Cache, val: Shards) -> float:
    """Percentage of the validation samples whose hard label is the label."""
    right = sum(int((cache.read(block, 0, 1).hard[0] == val.labels(block)).sum()) for block in val.blocks)
    return 100.0 * right / val.samples


def table(summary: Mapping[str, Any]) -> str:
    """The result table as text, for the terminal."""
    lines = [f"{'':<16}{'distillation':<14}{'top-1 %':>8}{'agreement %':>13}"]
    lines.append(f"{summary['teacher']['name']:<16}{'(teacher)':<14}{summary['teacher']['top1']:>8.2f}{'':>13}")
    for name, entry in summary["students"].items():
        agreement = "" if entry["agreement"] is None else f"{entry['agreement']:.2f}"
        lines.append(f"{name:<16}{entry['distillation']:<14}{entry['top1']:>8.2f}{agreement:>13}")
    return "\n".join(lines)
