"""How two models differ in what they answer, and what one of them confuses. Pure functions of answers.

The paper's Table 4 is a matrix of disagreement rates between the label, the teacher, an undistilled student and the heads
of a distilled one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from pipeline.evaluation.answers import Answers
from pipeline.evaluation.scores import probabilities


def matrix(answers: Mapping[str, np.ndarray]) -> list[list[float]]:
    """Shares (0 to 1) of the samples on which two of ``answers`` (classes (N,) by name) differ, in the mapping's order."""
    return [[float((one != other).mean()) for other in answers.values()] for one in answers.values()]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Percent of the samples to which both give one class."""
    return 100.0 * float((one == other).mean())


def divergence(teacher: Answers, student: Answers, head: str) -> float:
    """Mean KL(teacher || student) in nats, at temperature 1."""
    p, q = (
        np.maximum(probabilities(of, name), 1e-12).astype(np.float64)
        for of, name in ((teacher, teacher.best), (student, head))
    )
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


def mcnemar(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of two models on the same samples, from who was right (bool (N,)): ``only_first``,
    ``only_second`` right, and the two-sided ``p`` that the two are equally good (1 where they never differ)."""
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return {"only_first": first, "only_second": second, "p": p}


def per_class(answers: Answers, head: str) -> list[float | None]:
    """Percent right by class (C,); None for a class without samples."""
    classes = len(answers.classes)
    there = np.bincount(answers.labels, minlength=classes)
    right = np.bincount(answers.labels[answers.ranks[head] < 1], minlength=classes)
    return [100.0 * int(r) / int(n) if n else None for r, n in zip(right, there)]


def confusion(answers: Answers, head: str) -> np.ndarray:
    """Samples by label (rows) and answer (columns), int64 (C, C)."""
    classes = len(answers.classes)
    pairs = answers.labels.astype(int) * classes + answers.hard[head]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def confused(answers: Answers, head: str, most: int) -> list[dict[str, Any]]:
    """The pairs of classes most often taken for each other: ``label``, ``answer`` (names), ``samples`` and their
    ``percent`` of the label's samples."""
    table, names = confusion(answers, head), answers.classes
    there = table.sum(1)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:most]
    return [
        {
            "label": names[label],
            "answer": names[answer],
            "samples": int(table[label, answer]),
            "percent": 100.0 * int(table[label, answer]) / int(there[label]),
        }
        for label, answer in zip(*np.unravel_index(order, table.shape))
        if table[label, answer]
    ]


def least_probable(models: Sequence[Answers], most: int) -> list[int]:
    """The samples whose label got the smallest probability, on average over models: row numbers, worst first."""
    rows = np.arange(len(models[0].labels))
    own = [probabilities(of, of.best)[rows, of.labels] for of in models]
    return np.argsort(np.mean(own, axis=0), kind="stable")[:most].tolist()
