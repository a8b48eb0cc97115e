"""What stage evaluate leaves: answers and scores, read back here, and the few numbers and curves that DVC shows."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline.base.files import parse_json, read_small, write_durably
from pipeline.base.sums import require_unchanged, summed_directory
from pipeline.data.test_sets import SetConfig
from pipeline.evaluation.answers import Answers, write_answers
from pipeline.evaluation.sets import on_real_labels
from pipeline.evaluation.students import Evaluated, headline, scores_json
from pipeline.runtime.config import Config, validate
from pipeline.runtime.errors import IntegrityError, UsageError, first_line
from pipeline.runtime.work import Work
from pipeline.student.export import read_log

MARKS = ("metrics.json",)  # by which a directory of scores is known
_ABSENT: Any = None  # the default of what may be left out and is never null
CURVES = ("epoch", "loss", "task", "distill", "lr", "val_top1")


class _Head(Config):
    """Scores of one head; with other labels or other weights beside the student there are only some of them."""

    top1: float = Field(ge=0, le=100)
    interval: tuple[float, float]
    top5: float = _ABSENT
    loss: float = _ABSENT
    precision: float = _ABSENT
    recall: float = _ABSENT
    f1: float = _ABSENT
    auc: float | None = None
    calibration_error: float = _ABSENT


class _Set(Config):
    samples: int
    best: str
    heads: dict[str, _Head]
    ema: dict[str, _Head] = _ABSENT
    last: dict[str, _Head] = _ABSENT

    @model_validator(mode="after")
    def _best(self) -> "_Set":
        if any(heads is not None and self.best not in heads for heads in (self.heads, self.ema, self.last)):
            raise ValueError(f"no scores of {self.best}")
        return self


class _Tokens(Config):
    parameters: float
    layers: list[float] = Field(min_length=1)
    heads: float


class _Scored(Config):
    sets: dict[str, _Set]
    live_fraction: float
    parameters: int
    gflops: float
    tokens: _Tokens = _ABSENT


def read_scores(path: Path, again: str) -> dict[str, Any]:
    """The content of a ``metrics.json``, whose form is checked as well: one without sums (of an older version) may be
    damaged. ``again``: the command that writes it. Raises UsageError where there is no file, IntegrityError for damage."""
    require_unchanged(path)
    try:
        found: dict[str, Any] = parse_json(read_small(path))
        val = validate(_Scored, found, "scores").sets["val"]
        if val.heads[val.best].model_fields_set != set(_Head.model_fields):
            raise ValueError("scores are missing")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write it with: {again}") from None
    except (ValueError, KeyError, UsageError) as error:
        raise IntegrityError(
            f"{path}: not the scores of a student ({first_line(error)}); write it again with: {again}"
        ) from None
    return found


def write_scores(
    work: Work, name: str, found: Evaluated, configs: Mapping[str, SetConfig], sets: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """``eval/<name>`` (``<set>.npz``, ``<set>.ema.npz`` or ``<set>.last.npz``, ``metrics.json``), ``metrics/<name>.json``,
    ``curves/<name>.csv`` and ``confusion/<name>.csv`` below ``work``; the scores, and the bytes of the answers."""
    scored, size = scores_json(found), 0
    for label, config in configs.items():
        if config.labels == "real":
            of = found.answers["val" if config.same_views else label]
            scored["sets"][label] = on_real_labels(of, sets["val"][0])
        elif config.same_views:
            scored["sets"][label] = scored["sets"]["val"]
    with summed_directory(work.scores(name), MARKS) as fresh:
        for label, answers in found.answers.items():
            size += write_answers(fresh / f"{label}.npz", answers)
        for label, answers in found.others.items():
            size += write_answers(fresh / f"{label}.{found.beside}.npz", answers)
        write_durably(fresh / "metrics.json", _json(scored))
    write_durably(work.root / "metrics" / f"{name}.json", _json(headline(scored)))
    log = read_log(work.student(name))
    write_durably(
        work.root / "curves" / f"{name}.csv", _csv(CURVES, ([row.get(key, "") for key in CURVES] for row in log))
    )
    write_durably(work.root / "confusion" / f"{name}.csv", _csv(("label", "answer"), _confusion(found.answers["val"])))
    return scored, size


def _confusion(answers: Answers) -> Iterable[Sequence[str]]:
    names = answers.classes
    return ((names[label], names[hard]) for label, hard in zip(answers.labels, answers.hard[answers.best]))


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode()
