"""DeiT's losses on plain tensors: (1 - alpha) * task + alpha * distillation.

Source: Touvron et al. 2021, section 3; facebookresearch/deit losses.py. The teacher is never in here. DeiT's binary
cross-entropy (DeiT III's ``--bce-loss``) is left out: with smoothing it makes every class a positive one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from timm.data.mixup import one_hot
from torch import Tensor

from pipeline.runtime.errors import UsageError
from pipeline.student.model import Heads

Reduction = Literal["batchmean", "elementmean"]
Form = Literal["kl", "hinton"]


@dataclass(frozen=True)
class Distillation:
    """How a student learns from its teacher: ``alpha`` weighs the distillation term; the others are of the soft one."""

    kind: Literal["none", "soft", "hard"]
    alpha: float = 0.5
    tau: float = 1.0
    reduction: Reduction = "batchmean"
    form: Form = "kl"


@dataclass(frozen=True)
class Loss:
    """Scalars, each a mean over the batch: ``total`` is what is minimised, the other two are its parts, unweighted."""

    total: Tensor
    task: Tensor
    distill: Tensor


def smoothed_mixed_target(
    labels: Tensor, partner_labels: Tensor, lam: Tensor, classes: int, smoothing: float
) -> Tensor:
    """Smoothed labels of both partners mixed by ``lam``: int64 (B,), int64 (B,), float32 (B,) -> float32 (B, C).

    timm's ``mixup_target``, except that each row has its own lambda and partner. Smoothing spreads ``smoothing`` over
    all C classes, so the right one has 1 - smoothing + smoothing / C. Unmixed: lam 1. A label below 0 is not known: its
    share of the row's target is 0, so that a cross-entropy is lam CE(own) + (1 - lam) CE(partner) over the known ones.
    """
    off = smoothing / classes
    on = 1.0 - smoothing + off
    shares = lam * (labels >= 0), (1.0 - lam) * (partner_labels >= 0)
    own, other = (one_hot(known.clamp(min=0), classes, on, off) for known in (labels, partner_labels))
    return own * shares[0].unsqueeze(1) + other * shares[1].unsqueeze(1)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of -sum(target * log softmax(logits)), in float32: (B, C), (B, C) -> scalar.

    timm's ``SoftTargetCrossEntropy``.
    """
    return torch.sum(-target * F.log_softmax(logits.float(), dim=1), dim=1).mean()


def soft_distillation(
    logits: Tensor, teacher: Tensor, tau: float, reduction: Reduction = "batchmean", form: Form = "kl"
) -> Tensor:
    """The soft term, float32: (B, C), (B, C) -> scalar; p = softmax(teacher / tau), q = softmax(logits / tau).

    ``kl``: tau**2 * KL(p || q), DeiT's. ``hinton``: 2 * tau**2 * CE(p, q), as in Hinton et al. 2015 with the weight 2
    that some codes give it; CE is KL plus the teacher's entropy, which no student changes, so its gradient is twice that
    of ``kl``. ``batchmean`` divides the sum by B (Hinton et al. 2015). ``elementmean`` divides by B * C as DeiT's code
    does: with 1,000 classes the same alpha then weighs this term 1,000 times less, so it is no default.
    """
    student = F.log_softmax(logits.float() / tau, dim=1)
    target = F.log_softmax(teacher.float() / tau, dim=1)
    if form == "hinton":
        total = -2.0 * (tau * tau) * torch.sum(target.exp() * student)
    else:
        total = F.kl_div(student, target, reduction="sum", log_target=True) * (tau * tau)
    return total / (student.numel() if reduction == "elementmean" else student.shape[0])


def distillation_loss(
    heads: Heads, target: Tensor, hard: Tensor | None, logits: Tensor | None, how: Distillation
) -> Loss:
    """The loss of one batch.

    ``target`` float32 (B, C) is the mixed and smoothed label, for the class head. The teacher's ``hard`` labels int
    (B,) or ``logits`` float (B, C) are for the distillation head, or for the class head of a student without the token.
    ``hard``: cross-entropy to the teacher's argmax, never smoothed (DeiT losses.py); it reads no logits. ``none`` with a
    token: both heads learn the label, half each (the paper's control of two class tokens, section 4).

    Raises UsageError when the targets hold no teacher output of the kind asked for.
    """
    task = soft_cross_entropy(heads.class_logits, target)
    if how.kind == "none":
        if heads.distillation_logits is not None:
            task = 0.5 * task + 0.5 * soft_cross_entropy(heads.distillation_logits, target)
        return Loss(task, task, torch.zeros_like(task))
    student = heads.class_logits if heads.distillation_logits is None else heads.distillation_logits
    if how.kind == "hard":
        if hard is None:
            raise UsageError(
                "distillation 'hard' needs the teacher's hard labels, found none; name a cache or a teacher"
            )
        distill = F.cross_entropy(student.float(), hard.long())
    else:
        if logits is None:
            raise UsageError(
                "distillation 'soft' needs the teacher's logits, found hard labels only (codec 'none'); "
                "set the cache's codec to top16, u8 or f16, or the distillation to 'hard'"
            )
        distill = soft_distillation(student, logits, how.tau, how.reduction, how.form)
    return Loss(task * (1.0 - how.alpha) + distill * how.alpha, task, distill)
