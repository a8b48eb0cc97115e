"""The numbers of the report, collected from what the stages left."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.files import parse_json, read_small
from pipeline.base.sums import require_unchanged
from pipeline.base.weights import read_state, state_hash
from pipeline.data.test_sets import VAL
from pipeline.evaluation import disagreement, scores
from pipeline.evaluation.answers import Answers, read_answers, require_answers_of, require_same_images
from pipeline.evaluation.write_scores import read_scores
from pipeline.report.study import Study
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.work import Work
from pipeline.student.export import BESIDE

Named = Mapping[str, Answers]  # by teacher or student, on the images of the validation split
_PAIRS, _WORST = 12, 12  # shown


def read_all(work: Work, study: Study) -> tuple[Named, Named]:
    """The answers of all teachers and of all students. Raises UsageError for what was not evaluated, IntegrityError for
    damage and for other pixels, IdentityError for answers of another model or on other images."""
    teachers, students = {}, {}
    for name in study.teachers:
        again = f"python -m stages.answers --teacher {name}"
        path, weights = work.answers(name) / "val.npz", work.teacher_weights(name)
        teachers[name] = read_answers(path, again)
        if weights.is_file():  # else there is nobody to compare with
            require_unchanged(weights)
            require_answers_of(state_hash(read_state(weights)), teachers[name], path, again)
    for name in study.students:
        again, path = f"python -m stages.evaluate --student {name}", work.scores(name) / "val.npz"
        students[name] = read_answers(path, again)
        described = read_json(work.student(name) / "config.json", f"python -m stages.train --student {name}")
        require_answers_of(str(described.get("weights_hash")), students[name], path, again)
    everybody = {f"teacher {name}": of for name, of in teachers.items()} | students
    for (one, first), (other, second) in combinations(everybody.items(), 2):
        require_same_images(first, second, (one, other))
    return teachers, students


def read_json(path: Path, again: str) -> Any:
    """Raises UsageError where there is no file, IntegrityError where it is no JSON or has changed."""
    require_unchanged(path)
    try:
        return parse_json(read_small(path))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write it with: {again}") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: damaged ({error}); write it again with: {again}") from None


def summarise(work: Work, study: Study, teachers: Named, students: Named) -> dict[str, Any]:
    """The scores of ``summary.json``: from the files of the stages, or computed from answers. In percent, except
    ``disagreement`` and ``calibration`` (shares) and ``tokens`` (cosines)."""
    rows = {name: _student(work, study, name, teachers, students) for name in study.students}
    return {
        "teachers": {name: _teacher(study, of, name) for name, of in teachers.items()},
        "students": rows,
        "disagreement": disagreements(teachers, students),
        "pairs": pairs(students),
        "tokens": {name: row.pop("tokens") for name, row in rows.items() if "tokens" in row},
        "per_class": {name: disagreement.per_class(of, of.best) for name, of in students.items()},
        "confused": {name: disagreement.confused(of, of.best, _PAIRS) for name, of in students.items()},
        "calibration": {name: scores.calibration(of, of.best) for name, of in students.items()},
        "seconds": _seconds(work, study),
        "worst": worst(students),
    }


def _teacher(study: Study, of: Answers, name: str) -> dict[str, Any]:
    chosen = study.teachers[name]
    return {
        "arch": chosen.arch,
        "weights": chosen.weights or (f"{chosen.initial}, fitted further here" if chosen.initial else "fitted here"),
        **scores.scores_of(of, of.best),
    }


def _student(work: Work, study: Study, name: str, teachers: Named, students: Named) -> dict[str, Any]:
    """A student's row of the result table."""
    path, again = work.scores(name) / "metrics.json", f"python -m stages.evaluate --student {name}"
    chosen, own, twin = study.students[name], students[name], study.twin_of(name)
    scored = read_scores(path, again)
    sets = {name: of for name, of in scored["sets"].items() if name == VAL or name in study.test_sets}
    missing = [name for name in (VAL, *study.test_sets) if own.best not in sets.get(name, {"heads": {}})["heads"]]
    if missing:
        raise IntegrityError(f"{path}: no scores of head {own.best} on {missing[0]}; write it again with: {again}")
    found = {
        "arch": chosen.arch,
        "distillation": chosen.distillation,
        "supervision": chosen.supervision,
        "teacher": study.teacher_of(name),
        "best": own.best,
        **sets["val"]["heads"][own.best],
        **{key: scored[key] for key in ("parameters", "gflops", "live_fraction")},
        "beside": next((name for name in BESIDE if name in sets["val"]), None),
        "sets": sets,
    }
    found |= {"tokens": scored["tokens"]} if "tokens" in scored else {}
    found |= {"reference": chosen.reference, "note": chosen.note}
    found["agreement"] = {
        teacher: {
            "percent": disagreement.agreement(own.hard[own.best], of.hard[of.best]),
            "divergence": disagreement.divergence(of, own, own.best),
        }
        for teacher, of in teachers.items()
    }
    if twin is not None:
        right, twins = _right(own), _right(students[twin])
        points = 100.0 * float(right.mean() - twins.mean())
        found["twin"] = {"name": twin, "points": points, **disagreement.mcnemar(right, twins)}
    return found


def _right(of: Answers) -> np.ndarray:
    """Whether the head that counts is right, bool (N,)."""
    return of.ranks[of.best] < 1


def disagreements(teachers: Named, students: Named) -> dict[str, Any]:
    """The paper's Table 4 over everybody: labels, teachers, students, of a student with two heads each and both."""
    some = next(iter(students.values()))
    rows = {"labels": some.labels} | {name: of.hard[of.best] for name, of in teachers.items()}
    for name, of in students.items():
        single = len(of.heads) == 1
        rows |= {name: of.hard["class"]} if single else {
            f"{name}: {head if head != 'fused' else 'both'}": of.hard[head] for head in ("class", "distillation", "fused")
        }  # fmt: skip
    return {"names": list(rows), "matrix": disagreement.matrix(rows)}


def pairs(students: Named) -> list[dict[str, Any]]:
    """McNemar's test for each pair of students, by the head that counts."""
    return [
        {"first": one, "second": other, **disagreement.mcnemar(_right(students[one]), _right(students[other]))}
        for one, other in combinations(students, 2)
    ]


def _seconds(work: Work, study: Study) -> dict[str, Any]:
    """Seconds, memory and speed of the last run of each stage; of train:soft, while params.yaml has a student soft. A file
    that does not hold them is left out with a warning, since no output depends on it."""
    known = ("", *study.students, *study.teachers, *study.caches, *study.test_sets)
    found = {}
    for path in sorted((work.root / "seconds").glob("*.json")):
        try:
            time = parse_json(path.read_bytes())
            name = str(time.pop("stage"))
            time["seconds"] = float(time["seconds"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            say(f"warning: {path}: not the seconds of a stage ({error!r}); left out of the report")
            continue
        if name.partition(":")[2] in known:
            found[name] = time
    return found


def worst(students: Named) -> list[dict[str, Any]]:
    """The samples that the students answer worst: ``row``, ``label``, and every student's ``answers`` with probability."""
    rows = disagreement.least_probable(list(students.values()), _WORST)
    shares = {name: scores.probabilities(of, of.best)[rows].max(1) for name, of in students.items()}
    first = next(iter(students.values()))
    return [
        {
            "row": row,
            "label": first.classes[int(first.labels[row])],
            "answers": {
                name: {"answer": of.classes[int(of.hard[of.best][row])], "share": float(shares[name][place])}
                for name, of in students.items()
            },
        }
        for place, row in enumerate(rows)
    ]
