"""Figures of one model against scikit-learn, on ties, NaN and classes that are missing."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, precision_recall_fscore_support, roc_auc_score, top_k_accuracy_score

from pipeline.evaluation import scores
from pipeline.evaluation.answers import Answers
from tests.support.answers import answered


@pytest.fixture(scope="module")
def found() -> Answers:
    return answered(400, 12, seed=0)


@pytest.mark.parametrize("head", ["class", "distillation", "fused", "mean"])
def test_every_figure_is_scikit_learns(found: Answers, head: str) -> None:
    got, labels = scores.scores_of(found, head), found.labels
    shares = scores.probabilities(found, head)
    assert np.allclose(shares.sum(1), 1, atol=1e-6)
    for name, k in (("top1", 1), ("top5", 5)):
        assert got[name] == pytest.approx(100 * top_k_accuracy_score(labels, shares, k=k, labels=range(12)))
    assert got["loss"] == pytest.approx(log_loss(labels, shares.astype(float), labels=range(12)), rel=1e-5)
    assert got["auc"] == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"), abs=1e-12)
    expected = precision_recall_fscore_support(labels, shares.argmax(1), average="macro")[:3]
    assert [got[name] / 100 for name in ("precision", "recall", "f1")] == pytest.approx(expected)


def test_the_fused_head_sums_softmaxes_and_timms_averages_logits(found: Answers) -> None:
    one, other = (torch.from_numpy(found.logits[head]).float() for head in ("class", "distillation"))
    assert np.allclose(scores.probabilities(found, "fused"), (one.softmax(1) + other.softmax(1)) / 2, atol=1e-6)
    assert np.allclose(scores.probabilities(found, "mean"), ((one + other) / 2).softmax(1), atol=1e-6)


def test_calibration_is_the_definition_in_a_loop(found: Answers) -> None:
    shares = scores.probabilities(found, "class")
    error = 0.0
    for i in range(scores.BINS):
        low, high = i / scores.BINS, (i + 1) / scores.BINS
        inside = [n for n in range(400) if low < shares[n].max() <= high]
        if inside:
            right = np.mean([found.ranks["class"][n] == 0 for n in inside])
            error += len(inside) / 400 * abs(right - np.mean([float(shares[n].max()) for n in inside]))
    bins = scores.calibration(found, "class")
    assert scores.calibration_error(bins) == pytest.approx(error) and sum(b["samples"] for b in bins) == 400


def test_wilsons_interval_solves_its_equation() -> None:
    """The bounds are the shares whose own normal interval just reaches what was seen."""
    for right, samples in ((0, 10), (3, 10), (342, 360), (50_000, 50_000)):
        for bound in scores.wilson(right, samples):
            p = bound / 100
            distance, allowed = abs(right / samples - p), 1.959963984540054 * math.sqrt(p * (1 - p) / samples)
            assert distance == pytest.approx(allowed, abs=1e-9)


def test_without_logits_there_are_accuracies_only(found: Answers) -> None:
    bare = Answers(found.identity, found.labels, found.digests, {}, found.ranks, found.hard)
    assert set(scores.scores_of(bare, "fused")) == {"top1", "interval", "top5"}
