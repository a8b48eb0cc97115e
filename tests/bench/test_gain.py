"""The comparison over seeds: which students it trains, and what its table says."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.measure.gain import KINDS, Trial, parameters, table, top1, trials
from pipeline.planning.pieces import parse_pieces

CONFIGS = Path(__file__).parents[2] / "configs"


def test_each_student_learns_from_the_teacher_and_the_labels_that_its_name_says() -> None:
    todo = trials(2, ["all", "20"])
    assert len({trial.name for trial in todo}) == len(todo) == 2 * (4 + 4 + 3)
    pieces = parse_pieces(parameters(CONFIGS, todo, ("training.epochs=2", "teacher.fit.epochs=1")))
    assert len(pieces.teachers) == len(pieces.caches) == len(pieces.trainings) == 4
    for trial in todo:
        student = pieces.students[trial.name]
        training = pieces.trainings[student.training]
        assert (training.seed, training.epochs) == (trial.seed, 2.0)
        assert training.labelled_per_class == (None if trial.labels == "all" else 20)
        if trial.kind == "plain":
            assert student.cache == "none" and student.distillation == "none"
        else:
            fit = pieces.teachers[pieces.caches[student.cache].teacher].fit
            assert fit is not None and fit["seed"] == trial.seed and fit["epochs"] == 1
            assert fit.get("labelled_per_class") == (None if trial.teacher == "all" else 20)
            assert fit.get("labelled_seed") == (None if trial.teacher == "all" else trial.seed)


@pytest.fixture
def found(tmp_path: Path) -> Iterator[tuple[Path, list[Trial]]]:
    todo = trials(3, ["all", "10"])
    for trial in todo:
        for folder in ("students", "teachers"):
            (tmp_path / folder / (trial.name if folder == "students" else trial.maker)).mkdir(
                parents=True, exist_ok=True
            )
        share = 0.5 + 0.1 * KINDS.index(trial.kind) + 0.01 * trial.seed**2
        rows = [{"epoch": 1, "val_top1": 0.1}, {"epoch": 2, "val_top1": share}]
        with (tmp_path / "students" / trial.name / "log.csv").open("w") as file:
            writer = csv.DictWriter(file, ["epoch", "val_top1"])
            writer.writeheader()
            writer.writerows(rows)
        (tmp_path / "teachers" / trial.maker / "teacher.json").write_text(json.dumps({"top1": 90.0 + trial.seed}))
    yield tmp_path, todo


def test_the_table_gives_means_standard_errors_and_paired_gains(found: tuple[Path, list[Trial]]) -> None:
    work, todo = found
    values = np.array([50.0, 51.0, 54.0])
    assert [top1(work, Trial("plain", "all", "all", seed)) for seed in range(3)] == pytest.approx(values)
    error = values.std(ddof=1) / 3**0.5
    rows = list(table(work, todo, 3, own=True))
    assert len(rows) == 2 + 2 * 4
    assert rows[2] == f"| all | 91.00 ± 0.58 | plain | 51.67 ± {error:.2f} | {values.std(ddof=1):.2f} |  |"
    assert (
        rows[3].endswith("| +10.00 ± 0.00 |") and rows[9].startswith("| 10 |") and rows[9].endswith("| +30.00 ± 0.00 |")
    )
    assert [row.split("|")[1].strip() for row in table(work, todo, 3, own=False)][2:] == ["10"] * 4
