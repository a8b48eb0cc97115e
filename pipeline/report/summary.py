"""The numbers of the report, and its table for the terminal."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.base import files
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.text import clipped


@dataclass(frozen=True)
class Shown:
    """What the report says of a student besides its scores. ``teacher``: whom its agreement is shown with, "" for none."""

    distillation: str
    teacher: str


def summarise(
    work: Path, teachers: Collection[str], caches: Collection[str], students: Mapping[str, Shown]
) -> dict[str, Any]:
    """``summary.json``: ``teachers.<name>.top1``, ``students.<name>.top1`` and ``seconds``; percentages.

    ``work`` is where the other stages wrote; folders of other names in it do not matter. Raises UsageError for a student
    that was not evaluated, IntegrityError for damaged scores.
    """
    val = Shards.open(work / "shards" / "val")
    found: dict[str, Any] = {}
    for name, shown in students.items():
        path = work / "eval" / name / "metrics.json"
        if not path.is_file():
            raise UsageError(f"{path}: no such file; run python -m stages.evaluate --student {name}")
        try:
            found[name] = asdict(shown) | _scores(files.parse_json(path.read_bytes()), shown.teacher)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            again = "write it again with: python -m stages.evaluate"
            raise IntegrityError(f"{path}: not the scores of a student ({error!r}); {again}") from None
    known = ("", *students, *teachers, *caches)  # "train:soft" counts while there is a student soft
    seconds = dict(filter(None, map(_seconds, sorted((work / "seconds").glob("*.json")))))
    return {
        "teachers": {name: {"top1": teacher_top1(open_cache(work / "answers" / name), val)} for name in teachers},
        "students": found,
        "seconds": {stage: taken for stage, taken in seconds.items() if stage.partition(":")[2] in known},
    }


def _seconds(path: Path) -> tuple[str, float] | None:
    """A stage's name and seconds; None, and a word about it, where the file is cut or another's: no output depends on it."""
    try:
        found = files.parse_json(path.read_bytes())
        return str(found["stage"]), float(found["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"warning: {path}: not the seconds of a stage ({error!r}); left out of the report")
        return None


def _scores(metrics: Mapping[str, Any], teacher: str) -> dict[str, Any]:
    """A student's row of the report from its ``metrics.json``."""
    heads = metrics["heads"]
    best = "fused" if "fused" in heads else "class"
    return {
        "top1": heads[best]["top1"],
        "class": heads["class"]["top1"],
        "distillation_head": heads["distillation"]["top1"] if "distillation" in heads else None,
        "fused": heads["fused"]["top1"] if "fused" in heads else None,
        "ema": metrics["ema"][best]["top1"] if "ema" in metrics else None,
        "agreement": heads[best]["agreement"][teacher] if teacher else None,
        "live_fraction": metrics["live_fraction"],
    }


def teacher_top1(cache: Cache, val: Shards) -> float:
    """Percentage of the validation samples whose hard label is the label."""
    right = sum(int((cache.read(block, 0, 1).hard[0] == val.labels(block)).sum()) for block in val.blocks)
    return 100.0 * right / val.samples


def table(summary: Mapping[str, Any]) -> str:
    """The result table as text, for the terminal; names that are too long for it are cut."""
    rows = [
        (name, entry.get("distillation", "(teacher)"), entry["top1"], entry.get("agreement"))
        for kind in ("teachers", "students")
        for name, entry in summary[kind].items()
    ]
    most = max(16, shutil.get_terminal_size().columns - 37)
    wide = min(most, max([16, *(len(name) + 2 for name, *_ in rows)]))
    lines = [f"{'':<{wide}}{'distillation':<14}{'top-1 %':>8}{'agreement %':>13}"]
    for name, distillation, top1, agreement in rows:
        shown = "" if agreement is None else f"{agreement:.2f}"
        score = "" if top1 is None else f"{top1:.2f}"
        lines.append(f"{clipped(name, wide - 2):<{wide}}{distillation:<14}{score:>8}{shown:>13}".rstrip())
    return "\n".join(lines)
