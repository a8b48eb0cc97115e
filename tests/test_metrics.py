"""Counts and percentages: against scikit-learn, over any split into batches, with ties and NaN."""

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from pipeline.evaluation.metrics import count, ranks, summary
from pipeline.student.heads import Heads


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_percentages_are_scikit_learns_for_every_head():
    heads = Heads(draw(200, 12), draw(200, 12, seed=1))
    labels, hard = torch.arange(200) % 12, (torch.arange(200) * 7) % 12
    found = summary(count(heads, labels, hard), distillation=True, teacher=True)
    assert found["samples"] == 200
    scores = {
        "class": heads.class_logits,
        "distillation": heads.distillation_logits,
        "fused": heads.class_logits.softmax(1) + heads.distillation_logits.softmax(1),
    }
    for head, values in scores.items():
        for name, k, truth in (("top1", 1, labels), ("top5", 5, labels), ("agreement", 1, hard)):
            expected = 100 * top_k_accuracy_score(truth, values, k=k, labels=range(12))
            assert found["heads"][head][name] == pytest.approx(expected), (head, name)


def test_counts_add_up_over_any_batches():
    class_logits, distillation_logits = draw(50, 7), draw(50, 7, seed=1)
    labels, hard = torch.arange(50) % 7, torch.arange(50) % 5
    whole = count(Heads(class_logits, distillation_logits), labels, hard)
    parts = [
        count(Heads(class_logits[a:b], distillation_logits[a:b]), labels[a:b], hard[a:b])
        for a, b in ((0, 1), (1, 33), (33, 50))
    ]
    assert torch.equal(whole, sum(parts))


def test_the_fused_head_sums_softmaxes_and_not_logits():
    # By logits class 1 wins (mean 4 against 3.5); by softmax class 0: 1.0 + 0.27 against 0.0 + 0.73.
    heads = Heads(torch.tensor([[7.0, 0.0]]), torch.tensor([[0.0, 8.0]]))
    heads = Heads(heads.class_logits * 2, torch.tensor([[0.0, 1.0]]) + 0 * heads.class_logits)
    found = summary(count(heads, torch.tensor([0])), distillation=True, teacher=False)
    assert found["heads"]["fused"] == {"top1": 100.0, "top5": 100.0}
    assert torch.allclose(heads.fused().sum(1), torch.tensor([2.0]))


def test_without_distillation_head_or_teacher_there_is_the_class_head_only():
    found = summary(count(Heads(draw(4, 3)), torch.zeros(4)), distillation=False, teacher=False)
    assert set(found["heads"]) == {"class"}
    assert set(found["heads"]["class"]) == {"top1", "top5"}


def test_ties_go_to_the_smaller_class():
    scores = torch.tensor([[1.0, 1.0, 0.0]]).repeat(3, 1)
    assert ranks(scores, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]


def test_nan_never_counts_as_a_hit():
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan], [nan, 0.0, 0.0], [0.0, nan, 1.0]])
    assert (ranks(scores, torch.tensor([0, 0, 2])) > 0).all()


def test_nothing_counted_is_no_percentage():
    with pytest.raises(ValueError, match="no samples"):
        summary(torch.zeros(10, dtype=torch.int64), distillation=False, teacher=False)
