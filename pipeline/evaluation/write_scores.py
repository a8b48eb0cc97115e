"""What stage evaluate leaves: answers and scores, and the few numbers and curves that DVC shows."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.base.files import write_durably
from pipeline.base.sums import summed_directory
from pipeline.data.test_sets import SetConfig
from pipeline.evaluation.answers import Answers, write_answers
from pipeline.evaluation.sets import on_real_labels
from pipeline.evaluation.students import Evaluated, headline, scores_json
from pipeline.runtime.work import Work
from pipeline.student.export import read_log

MARKS = ("metrics.json",)  # by which a directory of scores is known
CURVES = ("epoch", "loss", "task", "distill", "lr", "val_top1")


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
