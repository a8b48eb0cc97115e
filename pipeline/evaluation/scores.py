"""How good the answers of one model are: accuracy, loss, F1, AUC, calibration, per head. Pure functions of answers.

Percentages come from the ranks and first classes, which are exact; what needs probabilities (loss, AUC, calibration) comes
from the float16 logits.
"""

from typing import Any

import numpy as np
from scipy.special import softmax
from scipy.stats import binomtest

from pipeline.base.scores import auc, macro
from pipeline.evaluation.answers import Answers

BINS = 15  # of confidence, equally wide (Guo et al. 2017)


def scores_of(answers: Answers, head: str) -> dict[str, Any]:
    """All scores of one head. Percentages: ``top1`` with its 95 % ``interval``, ``top5``, macro ``precision``, ``recall``
    and ``f1``, ``calibration_error``. ``loss`` in nats; ``auc`` in 0 to 1, mean over the classes that occur, one against
    the rest. Without logits: accuracies only."""
    labels, places = answers.labels, answers.ranks[head]
    right = int((places < 1).sum())
    found: dict[str, Any] = {
        "top1": 100.0 * right / len(labels),
        "interval": list(wilson(right, len(labels))),
        "top5": 100.0 * int((places < 5).sum()) / len(labels),
    }
    if not answers.logits:
        return found
    shares = probabilities(answers, head)
    own = shares[np.arange(len(labels)), labels]
    return found | {
        "loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(dtype=np.float64)),
        **macro(answers.hard[head], labels),
        "auc": auc(shares, labels),
        "calibration_error": 100.0 * calibration_error(calibration(answers, head)),
    }


def probabilities(answers: Answers, head: str) -> np.ndarray:
    """float32 (N, C) that add up to one: ``fused`` is the mean of both softmaxes, ``mean`` the softmax of the mean."""
    if head in ("class", "distillation"):
        return softmax(answers.logits[head].astype(np.float32), axis=1)
    one, other = (answers.logits[name].astype(np.float32) for name in ("class", "distillation"))
    if head == "mean":
        return softmax((one + other) / 2, axis=1)
    return (softmax(one, axis=1) + softmax(other, axis=1)) / 2


def wilson(right: int, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share of right answers in percent (Wilson 1927)."""
    found = binomtest(right, samples).proportion_ci(method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def calibration(answers: Answers, head: str) -> list[dict[str, float]]:
    """By bin of confidence that holds samples: ``confidence`` (mean, 0 to 1), ``accuracy`` (0 to 1), ``samples``."""
    confidence = probabilities(answers, head).max(1).astype(np.float64)
    right = answers.ranks[head] < 1
    place = np.clip((np.ceil(confidence * BINS) - 1).astype(int), 0, BINS - 1)
    return [
        {
            "confidence": float(confidence[place == i].mean()),
            "accuracy": float(right[place == i].mean()),
            "samples": int((place == i).sum()),
        }
        for i in np.unique(place)
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error, 0 to 1: mean distance of confidence and accuracy, weighed by samples."""
    total = sum(entry["samples"] for entry in bins)
    return sum(entry["samples"] * abs(entry["confidence"] - entry["accuracy"]) for entry in bins) / total
