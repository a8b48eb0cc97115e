"""Ranks and AUC of scores: ties, NaN and classes without samples."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline.base.scores import auc, ranks


def test_auc_counts_ties_half_and_leaves_out_classes_without_samples() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2], np.uint16)
    shares = np.round(np.random.default_rng(0).dirichlet([1] * 4, 6), 1)  # many ties; class 3 has no sample
    by_class = [roc_auc_score(labels == c, shares[:, c]) for c in range(3)]
    assert auc(shares, labels) == pytest.approx(np.mean(by_class), abs=1e-15)
    assert auc(shares, np.zeros(6, np.uint16)) is None  # one class alone has no rest


def test_ties_go_to_the_smaller_class_and_nan_never_counts_as_a_hit() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0]]).repeat(3, 1)
    assert ranks(scores, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan], [nan, 0.0, 0.0], [0.0, nan, 1.0]])
    assert (ranks(scores, torch.tensor([0, 0, 2])) > 0).all()
