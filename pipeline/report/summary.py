"""The numbers of the report, collected from what the stages left."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.base.files import parse_json
from pipeline.base.weights import read_state, state_hash
from pipeline.evaluation import disagreement, scores
from pipeline.evaluation.answers import Answers, read_answers, require_answers_of, require_same_images
from pipeline.report.study import Study
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.work import Work
from pipeline.student.export import BESIDE

_PAIRS, _WORST = 12, 12  # shown


@dataclass(frozen=True)
class AllAnswers:
    """Everybody's answers on the validation split, which are of the same images."""

    teachers: Mapping[str, Answers]
    students: Mapping[str, Answers]


def read_all(work: Work, study: Study) -> AllAnswers:
    """The answers of all teachers and students. Raises UsageError for what was not evaluated, IntegrityError for damage
    and for other pixels, IdentityError for answers of another model or of other images."""
    teachers, students = {}, {}
    for name in study.teachers:
        again = f"python -m stages.answers --teacher {name}"
        path, weights = work.answers(name) / "val.npz", work.teacher_weights(name)
        teachers[name] = read_answers(path, again)
        if weights.is_file():  # else there is nobody to compare with
            require_answers_of(state_hash(read_state(weights)), teachers[name], path, again)
    for name in study.students:
        again, path = f"python -m stages.evaluate --student {name}", work.scores(name) / "val.npz"
        students[name] = read_answers(path, again)
        described = read_json(work.student(name) / "config.json", f"python -m stages.train --student {name}")
        require_answers_of(str(described.get("weights_hash")), students[name], path, again)
    everybody = [*((f"teacher {name}", of) for name, of in teachers.items()), *students.items()]
    for (one, first), (other, second) in combinations(everybody, 2):
        require_same_images(first, second, (one, other))
    return AllAnswers(teachers, students)


def read_json(path: Path, again: str) -> Any:
    """Raises UsageError where there is no file, IntegrityError where it is no JSON."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write it with: {again}") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: damaged ({error}); write it again with: {again}") from None


def summarise(work: Work, study: Study, answers: AllAnswers) -> dict[str, Any]:
    """``summary.json`` but for what is shown as pictures: all numbers, each from the files of the stages or computed of
    their answers. Percentages, but for ``disagreement`` (shares), ``tokens`` (cosines) and ``calibration`` (shares)."""
    students = {name: _student(work, study, answers, name) for name in study.students}
    return {
        "teachers": {name: _teacher(study, of, name) for name, of in answers.teachers.items()},
        "students": students,
        "disagreement": disagreements(answers),
        "pairs": pairs(answers),
        "tokens": {name: entry.pop("tokens") for name, entry in students.items() if "tokens" in entry},
        "per_class": {name: disagreement.per_class(of, of.best) for name, of in answers.students.items()},
        "confused": {name: disagreement.confused(of, of.best, _PAIRS) for name, of in answers.students.items()},
        "calibration": {name: scores.calibration(of, of.best) for name, of in answers.students.items()},
        "seconds": _seconds(work, study),
    }


def _teacher(study: Study, of: Answers, name: str) -> dict[str, Any]:
    chosen = study.teachers[name]
    return {
        "arch": chosen.arch,
        "weights": chosen.weights or (f"{chosen.initial}, fitted further here" if chosen.initial else "fitted here"),
        **scores.scores_of(of, of.best),
    }


def _student(work: Work, study: Study, answers: AllAnswers, name: str) -> dict[str, Any]:
    """A student's row of the result table."""
    path = work.scores(name) / "metrics.json"
    again = f"python -m stages.evaluate --student {name}"
    chosen, own = study.students[name], answers.students[name]
    scored = read_json(path, again)
    try:
        sets = scored["sets"]
        best = sets["val"]["heads"][own.best]
        found = {
            "arch": chosen.arch,
            "distillation": chosen.distillation,
            "supervision": chosen.supervision,
            "teacher": study.teacher_of(name),
            "best": own.best,
            **best,
            **{key: scored[key] for key in ("parameters", "gflops", "live_fraction")},
            "beside": next((name for name in BESIDE if name in sets["val"]), None),
            "sets": sets,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: not the scores of a student ({error!r}); write it again with: {again}") from None
    found |= {"tokens": scored["tokens"]} if "tokens" in scored else {}
    found |= {"reference": chosen.reference, "note": chosen.note}
    found["agreement"] = {
        teacher: {
            "percent": disagreement.agreement(own.hard[own.best], of.hard[of.best]),
            "divergence": disagreement.divergence(of, own, own.best),
        }
        for teacher, of in answers.teachers.items()
    }
    twin = study.twin_of(name)
    if twin is not None:
        other = answers.students[twin]
        right, twins = own.ranks[own.best] < 1, other.ranks[other.best] < 1
        test = disagreement.mcnemar(right, twins)
        found["twin"] = {"name": twin, "points": 100.0 * float(right.mean() - twins.mean()), **test}
    return found


def disagreements(answers: AllAnswers) -> dict[str, Any]:
    """The paper's Table 4 over everybody: labels, teachers, students, of a student with two heads each and both."""
    some = next(iter(answers.students.values()))
    rows = {"labels": some.labels} | {name: of.hard[of.best] for name, of in answers.teachers.items()}
    for name, of in answers.students.items():
        single = len(of.heads) == 1
        rows |= {name: of.hard["class"]} if single else {
            f"{name}: {head if head != 'fused' else 'both'}": of.hard[head] for head in ("class", "distillation", "fused")
        }  # fmt: skip
    return {"names": list(rows), "matrix": disagreement.matrix(rows)}


def pairs(answers: AllAnswers) -> list[dict[str, Any]]:
    """McNemar's test for each pair of students, by the head that counts."""
    right = {name: of.ranks[of.best] < 1 for name, of in answers.students.items()}
    return [
        {"first": one, "second": other, **disagreement.mcnemar(right[one], right[other])}
        for one, other in combinations(right, 2)
    ]


def _seconds(work: Work, study: Study) -> dict[str, Any]:
    """Seconds, memory and speed of the stages' last runs; "train:soft" counts while there is a student soft. A file that
    is cut or another's is left out with a word, since no output depends on it."""
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


def worst(answers: AllAnswers) -> list[dict[str, Any]]:
    """The samples that the students answer worst: ``row``, ``label``, and every student's ``answers`` with probability."""
    rows = disagreement.least_probable(list(answers.students.values()), _WORST)
    shares = {name: scores.probabilities(of, of.best)[rows] for name, of in answers.students.items()}
    found = []
    for place, row in enumerate(rows):
        said = {
            name: {"answer": of.classes[int(of.hard[of.best][row])], "share": float(shares[name][place].max())}
            for name, of in answers.students.items()
        }
        first = next(iter(answers.students.values()))
        found.append({"row": row, "label": first.classes[int(first.labels[row])], "answers": said})
    return found
