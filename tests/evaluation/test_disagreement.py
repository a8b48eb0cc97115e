"""Disagreement of two models: the tests and figures are their definitions."""

from math import comb

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.evaluation import disagreement, scores
from tests.support.answers import answered


def test_mcnemar_is_the_binomial_sum() -> None:
    chance = np.random.default_rng(0)
    one, other = chance.random(300) < 0.8, chance.random(300) < 0.7
    found = disagreement.mcnemar(one, other)
    b, c = found["only_first"], found["only_second"]
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert b == sum(one & ~other) and c == sum(other & ~one) and found["p"] == pytest.approx(min(1.0, 2 * tail))
    assert disagreement.mcnemar(one, one)["p"] == 1.0


def test_disagreement_agreement_and_divergence_are_their_definitions() -> None:
    one, other = answered(200, 9, seed=0, heads=1), answered(200, 9, seed=1)
    found = disagreement.matrix({"labels": one.labels, "a": one.hard["class"], "b": other.hard["fused"]})
    assert found == np.array(found).T.tolist() and [found[i][i] for i in range(3)] == [0, 0, 0]
    assert 100 - 100 * found[0][1] == pytest.approx(scores.scores_of(one, "class")["top1"])
    assert disagreement.agreement(one.hard["class"], other.hard["fused"]) == pytest.approx(100 - 100 * found[1][2])
    p = torch.from_numpy(one.logits["class"]).float().log_softmax(1)
    q = torch.from_numpy(other.logits["class"]).float().log_softmax(1)
    expected = float(F.kl_div(q, p, reduction="batchmean", log_target=True))
    assert disagreement.divergence(one, other, "class") == pytest.approx(expected, rel=1e-4)


def test_confusion_adds_up_and_its_worst_pairs_stand_first() -> None:
    found = answered(300, 6, seed=0, good=0.5)
    table = np.array(disagreement.confusion(found, "fused"))
    right = disagreement.per_class(found, "fused")
    assert table.sum() == 300 and np.allclose(100 * table.diagonal() / table.sum(1), right)
    pairs = disagreement.confused(found, "fused", 5)
    off = sorted((table - np.diag(table.diagonal())).flatten(), reverse=True)
    assert [pair["samples"] for pair in pairs] == off[:5]
    rows = disagreement.least_probable([found], 300)
    own = scores.probabilities(found, "fused")[np.arange(300), found.labels]
    assert sorted(rows) == list(range(300)) and (np.diff(own[rows]) >= 0).all()
