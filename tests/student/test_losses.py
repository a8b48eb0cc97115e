"""Losses against DeiT's and timm's own formulas and against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

from pipeline.runtime.errors import UsageError
from pipeline.student.losses import (
    Distillation,
    distillation_loss,
    smoothed_mixed_target,
    soft_cross_entropy,
    soft_distillation,
)
from pipeline.student.model import Heads
from tests.support.students import make, views


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def deit_loss(outputs, outputs_kd, teacher, labels, kind, alpha, tau):
    """DistillationLoss.forward of facebookresearch/deit losses.py, written down again."""
    base = SoftTargetCrossEntropy()(outputs, labels)
    if kind == "soft":
        distillation = (
            F.kl_div(
                F.log_softmax(outputs_kd / tau, dim=1),
                F.log_softmax(teacher / tau, dim=1),
                reduction="sum",
                log_target=True,
            )
            * (tau * tau)
            / outputs_kd.numel()
        )
    else:
        distillation = F.cross_entropy(outputs_kd, teacher.argmax(dim=1))
    return base * (1 - alpha) + distillation * alpha


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize(("alpha", "tau"), [(0.5, 1.0), (0.1, 3.0)])
def test_the_loss_with_the_token_is_deits(kind, alpha, tau):
    outputs, outputs_kd, teacher = draw(8, 10), draw(8, 10, seed=1), 3 * draw(8, 10, seed=2)
    labels = draw(8, 10, seed=3).softmax(1)
    loss = distillation_loss(
        Heads(outputs, outputs_kd),
        labels,
        teacher.argmax(1),
        teacher,
        Distillation(kind, alpha, tau, "elementmean"),
    )
    assert torch.equal(loss.total, deit_loss(outputs, outputs_kd, teacher, labels, kind, alpha, tau))
    assert torch.allclose(loss.total, (1 - alpha) * loss.task + alpha * loss.distill)


def test_without_the_token_distillation_acts_on_the_class_head():
    outputs, teacher, labels = draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2).softmax(1)
    loss = distillation_loss(Heads(outputs), labels, teacher.argmax(1), None, Distillation("hard"))
    assert torch.equal(loss.total, deit_loss(outputs, outputs, teacher, labels, "hard", 0.5, 1.0))


def test_no_distillation_is_the_task_alone():
    outputs, labels = draw(4, 5), draw(4, 5, seed=2).softmax(1)
    loss = distillation_loss(Heads(outputs), labels, None, None, Distillation("none", 0.9))
    assert torch.equal(loss.total, SoftTargetCrossEntropy()(outputs, labels))
    assert loss.distill == 0


def test_values_worked_out_by_hand():
    # Student logits (0, ln 3): probabilities 1/4, 3/4. Label half and half; the teacher is sure by 3:1 of class 0.
    heads = Heads(torch.tensor([[0.0, math.log(3.0)]]))
    target = torch.tensor([[0.5, 0.5]])
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    task = -0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4)
    hard = distillation_loss(heads, target, torch.tensor([0]), None, Distillation("hard", 0.25))
    assert hard.task.item() == pytest.approx(task, rel=1e-6)
    assert hard.distill.item() == pytest.approx(math.log(4), rel=1e-6)
    assert hard.total.item() == pytest.approx(0.75 * task + 0.25 * math.log(4), rel=1e-6)
    # KL((3/4, 1/4) || (1/4, 3/4)) = 3/4 ln 3 - 1/4 ln 3 = ln(3) / 2
    soft = distillation_loss(heads, target, None, teacher, Distillation("soft", 1.0))
    assert soft.total.item() == pytest.approx(math.log(3) / 2, rel=1e-6)
    # At tau 1/2 the logits double, 9:1 against 1:9: KL = 8/10 ln 9, times tau**2 = 1/4.
    assert soft_distillation(heads.class_logits, teacher, 0.5, "batchmean").item() == pytest.approx(
        0.25 * 0.8 * math.log(9), rel=1e-6
    )


def test_batchmean_is_classes_times_elementmean():
    student, teacher = draw(6, 1000), draw(6, 1000, seed=1)
    by_batch = soft_distillation(student, teacher, 2.0, "batchmean")
    assert torch.allclose(by_batch, 1000 * soft_distillation(student, teacher, 2.0, "elementmean"))
    assert by_batch.item() == pytest.approx(
        4.0 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean").item(), rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [1.0, 0.25, 0.7310585975646973])
def test_the_target_is_timms_for_a_batch_with_one_lambda(smoothing, lam):
    labels = torch.tensor([3, 0, 9, 9])
    ours = smoothed_mixed_target(labels, labels.flip(0), torch.full((4,), lam), 10, smoothing)
    assert torch.equal(ours, mixup_target(labels, 10, lam, smoothing))
    assert torch.allclose(ours.sum(1), torch.ones(4))


def test_every_row_has_its_own_lambda_and_partner():
    target = smoothed_mixed_target(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([0.75, 1.0]), 3, 0.3)
    expected = [[0.75 * 0.8 + 0.25 * 0.1, 0.1, 0.75 * 0.1 + 0.25 * 0.8], [0.1, 0.8, 0.1]]
    assert torch.allclose(target, torch.tensor(expected))


def test_losses_are_computed_in_float32_under_autocast():
    logits, target = draw(4, 10).bfloat16(), draw(4, 10, seed=1).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        value = soft_cross_entropy(logits, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, soft_cross_entropy(logits.float(), target))


def softmax64(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def cross_entropy64(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """-sum(p log q) / B in float64, and its gradient (q sum(p) - p) / B by hand."""
    q = softmax64(logits)
    return float(-(target * np.log(q)).sum() / len(q)), (q * target.sum(1, keepdims=True) - target) / len(q)


def formula64(kind, form, reduction, alpha, tau, outputs, outputs_kd, teacher, labels):
    """The loss and the gradients of both heads in float64, from the formulas; ``outputs_kd`` None: no token."""
    task, towards = cross_entropy64(outputs, labels)
    if kind == "none":
        if outputs_kd is None:
            return task, towards, None
        other, towards_kd = cross_entropy64(outputs_kd, labels)
        return (task + other) / 2, towards / 2, towards_kd / 2
    student = outputs if outputs_kd is None else outputs_kd
    if kind == "hard":
        term, pull = cross_entropy64(student, np.eye(student.shape[1])[teacher.argmax(1)])
    else:
        p = softmax64(teacher / tau)
        term, pull = cross_entropy64(student / tau, p)
        share = tau * tau / (student.shape[1] if reduction == "elementmean" else 1)
        entropy = float(-(p * np.log(p)).sum() / len(p))
        # the chain rule through logits / tau leaves one tau
        term, pull = (2 * term, 2 * pull / tau) if form == "hinton" else (term - entropy, pull / tau)
        term, pull = share * term, share * pull
    if outputs_kd is None:
        return (1 - alpha) * task + alpha * term, (1 - alpha) * towards + alpha * pull, None
    return (1 - alpha) * task + alpha * term, (1 - alpha) * towards, alpha * pull


FORMS = [
    ("none", "kl", "batchmean"),
    ("hard", "kl", "batchmean"),
    *(("soft", form, how) for form in ("kl", "hinton") for how in ("batchmean", "elementmean")),
]


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize(("kind", "form", "reduction"), FORMS)
@pytest.mark.parametrize(("alpha", "tau"), [(0.5, 1.0), (0.1, 3.0), (1.0, 3.0), (0.0, 1.0)])
def test_every_form_and_its_gradients_are_the_float64_formulas(token, kind, form, reduction, alpha, tau):
    outputs, teacher, labels = 2 * draw(16, 10), 3 * draw(16, 10, seed=2), draw(16, 10, seed=3).softmax(1)
    labels[3] = 0.0  # a row whose label is not known
    labels[4] *= 0.3  # and one of which the partner's is not
    outputs_kd = 2 * draw(16, 10, seed=1) if token else None
    leaves = [value.requires_grad_() for value in (outputs, outputs_kd) if value is not None]
    loss = distillation_loss(
        Heads(outputs, outputs_kd), labels, teacher.argmax(1), teacher,
        Distillation(kind, alpha, tau, reduction, form),
    )  # fmt: skip
    loss.total.backward()
    plain = [
        None if value is None else value.detach().double().numpy() for value in (outputs, outputs_kd, teacher, labels)
    ]
    value, *gradients = formula64(kind, form, reduction, alpha, tau, *plain)
    assert loss.total.item() == pytest.approx(value, rel=1e-6, abs=1e-6)
    for leaf, expected in zip(leaves, gradients):
        found = np.zeros_like(expected) if leaf.grad is None else leaf.grad.double().numpy()
        assert np.abs(found - expected).max() < 1e-6


def test_hintons_form_pulls_twice_as_hard():
    teacher, pulls = draw(4, 5, seed=1), []
    for form in ("kl", "hinton"):
        outputs = draw(4, 5).requires_grad_()
        soft_distillation(outputs, teacher, 3.0, form=form).backward()
        pulls.append(outputs.grad)
    assert torch.allclose(pulls[1], 2 * pulls[0], atol=1e-7) and pulls[0].abs().max() > 0.01


def test_an_unknown_label_leaves_its_share_of_the_target_empty():
    labels, partners, lam = torch.tensor([0, -1, 0, -1]), torch.tensor([1, 1, -1, -1]), torch.full((4,), 0.75)
    target = smoothed_mixed_target(labels, partners, lam, 2, 0.0)
    assert torch.equal(target, torch.tensor([[0.75, 0.25], [0.0, 0.25], [0.75, 0.0], [0.0, 0.0]]))
    assert soft_cross_entropy(draw(4, 2)[3:], target[3:]) == 0, "a row without labels asks for nothing"


def test_gradients_reach_the_heads_and_not_the_teacher():
    heads = Heads(draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_())
    teacher = draw(4, 5, seed=2)
    distillation_loss(heads, draw(4, 5, seed=3).softmax(1), None, teacher, Distillation("soft")).total.backward()
    assert heads.class_logits.grad is not None and heads.distillation_logits.grad is not None


@pytest.mark.parametrize(("kind", "wanted"), [("hard", "hard labels"), ("soft", "codec")])
def test_missing_teacher_outputs_are_refused(kind, wanted):
    with pytest.raises(UsageError, match=wanted):
        distillation_loss(Heads(draw(2, 3)), draw(2, 3).softmax(1), None, None, Distillation(kind))


def test_every_parameter_learns_from_the_distillation_loss():
    model = make(drop_path=0.0).train()
    target = F.one_hot(torch.tensor([0, 1, 2, 3]), 10).float()
    loss = distillation_loss(model(views()), target, torch.tensor([4, 5, 6, 7]), None, Distillation("hard"))
    loss.total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_two_class_tokens_without_a_teacher_learn_the_label_half_each():
    model = make(drop_path=0.0, distillation="none", cache="none").train()
    heads, target = model(views()), F.one_hot(torch.tensor([0, 1, 2, 3]), 10).float()
    loss = distillation_loss(heads, target, None, None, Distillation("none"))
    each = [F.cross_entropy(logits, target) for logits in (heads.class_logits, heads.distillation_logits)]
    assert torch.allclose(loss.total, (each[0] + each[1]) / 2) and each[0] != each[1]
    loss.total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_the_class_target_is_the_mixed_smoothed_label() -> None:
    target = smoothed_mixed_target(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.75]), 4, 0.1)
    assert torch.allclose(target, torch.tensor([[0.025, 0.7, 0.25, 0.025]]))
