"""How good the answers of one model are: accuracy, loss, F1, AUC, calibration, per head. Pure functions of predictions.

Percentages come from the ranks and first classes, which are exact; what needs probabilities (loss, AUC, calibration) is of
the float16 logits.
"""

import math
from typing import Any

import numpy as np

from pipeline.base import scores
from pipeline.evaluation.predictions import Predictions

BINS = 15  # of confidence, equally wide (Guo et al. 2017)
_Z = 1.959963984540054  # 95 %


def of_head(predictions: Predictions, head: str) -> dict[str, Any]:
    """All figures of one head. Percentages: ``top1`` with its 95 % ``interval``, ``top5``, macro ``precision``, ``recall``
    and ``f1``, ``calibration_error``. ``loss`` in nats; ``auc`` in 0 to 1, mean over the classes that occur, one against
    the rest. Without logits: accuracies only."""
    labels, places, hard = predictions.labels, predictions.ranks[head], predictions.hard[head]
    right = int((places < 1).sum())
    found: dict[str, Any] = {
        "top1": 100.0 * right / len(labels),
        "interval": list(wilson(right, len(labels))),
        "top5": 100.0 * int((places < 5).sum()) / len(labels),
    }
    if not predictions.logits:
        return found
    shares = probabilities(predictions, head)
    own = shares[np.arange(len(labels)), labels]
    return found | {
        "loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(dtype=np.float64)),
        **scores.macro(hard, labels),
        "auc": scores.auc(shares, labels),
        "calibration_error": 100.0 * calibration_error(calibration(predictions, head, shares)),
    }


def probabilities(predictions: Predictions, head: str) -> np.ndarray:
    """float32 (N, C) that add up to one: ``fused`` is the mean of both softmaxes, ``mean`` the softmax of the mean."""
    if head in ("class", "distillation"):
        return softmax(predictions.logits[head].astype(np.float32))
    both = [predictions.logits[name].astype(np.float32) for name in ("class", "distillation")]
    if head == "mean":
        return softmax((both[0] + both[1]) / 2)
    return (softmax(both[0]) + softmax(both[1])) / 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis, in the type of ``logits``."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def wilson(right: int, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share of right answers in percent (Wilson 1927)."""
    share, z2 = right / samples, _Z * _Z / samples
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def calibration(predictions: Predictions, head: str, shares: np.ndarray | None = None) -> list[dict[str, float]]:
    """By bin of confidence that holds samples: ``confidence`` (mean, 0 to 1), ``accuracy`` (0 to 1), ``samples``."""
    shares = probabilities(predictions, head) if shares is None else shares
    confidence = shares.max(1).astype(np.float64)
    right = predictions.ranks[head] < 1
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
