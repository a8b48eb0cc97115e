"""How good answers are: the rank of the right class, macro precision, recall and F1, AUC. Pure functions.

scikit-learn computes all but the exact AUC, for which it takes minutes with 1,000 classes; a test compares the two.
"""

import numpy as np
from torch import Tensor, arange


def ranks(scores: Tensor, classes: Tensor) -> Tensor:
    """How many classes stand before the given one: float (B, C), int64 (B,) -> int64 (B,); 0 is the argmax.

    Ties go to the smaller class, as in ``hard`` labels. A NaN beats everything, so it can only cost a hit.
    """
    index = arange(scores.shape[1], device=scores.device)
    chosen = classes.long().unsqueeze(1)
    value = scores.gather(1, chosen)
    behind = (scores < value) | ((scores == value) & (index > chosen))
    return scores.shape[1] - 1 - behind.sum(dim=1)


def macro(hard: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``precision``, ``recall`` and ``f1`` in percent, means over the classes that occur: first classes and labels (N,)."""
    from sklearn.metrics import precision_recall_fscore_support

    found = precision_recall_fscore_support(labels, hard, average="macro", zero_division=0)
    return {name: 100.0 * float(value) for name, value in zip(("precision", "recall", "f1"), found)}


def auc(shares: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve, exact, ties counted half: mean over the classes, one against the rest, that have samples
    inside and outside; None where there are none. ``shares`` (N, C)."""
    found = []
    for label in np.unique(labels):
        inside = labels == label
        own, rest = np.sort(shares[inside, label]), np.sort(shares[~inside, label])
        if len(rest):
            below, upto = np.searchsorted(rest, own, "left"), np.searchsorted(rest, own, "right")
            found.append((below.sum() + upto.sum()) / 2 / (len(own) * len(rest)))
    return float(np.mean(found)) if found else None
