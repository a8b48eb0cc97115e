"""How two models differ in what they answer. Pure functions of predictions.

The paper's Table 4 is a matrix of disagreement rates between the label, the teacher, an undistilled student and the heads
of a distilled one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.metrics import probabilities
from pipeline.evaluation.predictions import Predictions


def matrix(answers: Mapping[str, np.ndarray]) -> list[list[float]]:
    """Shares (0 to 1) of the samples on which two of ``answers`` (classes (N,) by name) differ, in the mapping's order."""
    return [[float((one != other).mean()) for other in answers.values()] for one in answers.values()]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Percent of the samples to which both give one class."""
    return 100.0 * float((one == other).mean())


def divergence(teacher: Predictions, student: Predictions, head: str) -> float:
    """Mean KL(teacher || student) in nats, at temperature 1."""
    p, q = (
        np.maximum(probabilities(of, name), 1e-12).astype(np.float64)
        for of, name in ((teacher, teacher.best), (student, head))
    )
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


def mcnemar(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of two models on the same samples, from who was right (bool (N,)): ``only_first``,
    ``only_second`` right, and the two-sided ``p`` that the two are equally good (1 where they never differ)."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # SciPy ships no types; it comes with scikit-learn

    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return {"only_first": first, "only_second": second, "p": p}


def per_class(predictions: Predictions, head: str) -> list[float | None]:
    """Percent right by class (C,); None for a class without samples."""
    classes = len(predictions.classes)
    there = np.bincount(predictions.labels, minlength=classes)
    right = np.bincount(predictions.labels[predictions.ranks[head] < 1], minlength=classes)
    return [100.0 * int(r) / int(n) if n else None for r, n in zip(right, there)]


def confused(predictions: Predictions, head: str, most: int) -> list[dict[str, Any]]:
    """The pairs of classes most often taken for each other: ``label``, ``answer`` (names), ``samples`` and their
    ``percent`` of the label's samples."""
    wrong = predictions.ranks[head] > 0
    labels, answers = predictions.labels[wrong].astype(int), predictions.hard[head][wrong].astype(int)
    classes, there = len(predictions.classes), np.bincount(predictions.labels, minlength=len(predictions.classes))
    pairs, counts = np.unique(labels * classes + answers, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    names = predictions.classes
    return [
        {
            "label": names[pair // classes],
            "answer": names[pair % classes],
            "samples": int(count),
            "percent": 100.0 * int(count) / int(there[pair // classes]),
        }
        for pair, count in zip(pairs[order].tolist(), counts[order])
    ]


def confusion(predictions: Predictions, head: str) -> list[list[int]]:
    """Samples by label (rows) and answer (columns), (C, C)."""
    classes = len(predictions.classes)
    pairs = predictions.labels.astype(int) * classes + predictions.hard[head]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()


def worst(predictions: Sequence[Predictions], most: int) -> list[int]:
    """The samples whose label got the smallest probability, on average over models: row numbers, worst first."""
    rows = np.arange(len(predictions[0].labels))
    own = [probabilities(of, of.best)[rows, of.labels] for of in predictions]
    return np.argsort(np.mean(own, axis=0), kind="stable")[:most].tolist()
