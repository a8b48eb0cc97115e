"""Counts that add up over batches and ranks: top-1, top-5 and agreement with the teacher, per head.

A batch gives one int64 tensor; counts of batches, ranks and runs are added with ``+`` or ``all_reduce`` and turned into
percentages once, so nothing depends on how the samples were batched and padding is never counted.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.student.heads import Heads

HEADS = ("class", "distillation", "fused")
COUNTS = ("top1", "top5", "agreement")
SIZE = 1 + len(HEADS) * len(COUNTS)  # of the counts of one batch


def ranks(scores: Tensor, classes: Tensor) -> Tensor:
    """How many classes stand before the given one: float (B, C), int64 (B,) -> int64 (B,); 0 is the argmax.

    Ties go to the smaller class, as in ``hard`` labels. A NaN beats everything, so it can only cost a hit.
    """
    index = torch.arange(scores.shape[1], device=scores.device)
    chosen = classes.long().unsqueeze(1)
    value = scores.gather(1, chosen)
    behind = (scores < value) | ((scores == value) & (index > chosen))
    return scores.shape[1] - 1 - behind.sum(dim=1)


def count(heads: Heads, labels: Tensor, hard: Tensor | None = None) -> Tensor:
    """Counts of one batch, int64 (1 + 3 * 3,): samples, then top-1, top-5, agreement for each of HEADS.

    ``labels`` int (B,) is the ground truth, ``hard`` int (B,) the teacher's. What is absent counts 0.
    """
    answers = (heads.class_logits, heads.distillation_logits, heads.fused())
    counts = torch.zeros(SIZE, dtype=torch.int64, device=labels.device)
    counts[0] = labels.shape[0]
    for scores, row in zip(answers, counts[1:].view(len(HEADS), len(COUNTS))):
        if scores is not None:
            place = ranks(scores, labels)
            row[0] = (place < 1).sum()
            row[1] = (place < 5).sum()
            if hard is not None:
                row[2] = (ranks(scores, hard) == 0).sum()
    return counts


def summary(counts: Tensor, *, distillation: bool, teacher: bool) -> dict[str, Any]:
    """Percentages for metrics.json: ``samples`` and ``heads.<head>.{top1,top5}``, with a teacher also ``agreement``.

    ``distillation`` says whether the student has that head; without it there is the class head only. Raises ValueError
    if nothing was counted.
    """
    samples = int(counts[0])
    if samples == 0:
        raise ValueError("nothing was counted: no samples, so no percentages")
    heads: dict[str, dict[str, float]] = {}
    for head, row in zip(HEADS, counts[1:].view(len(HEADS), len(COUNTS)).tolist()):
        if head == "class" or distillation:
            shares = {name: 100.0 * number / samples for name, number in zip(COUNTS, row)}
            heads[head] = shares if teacher else {"top1": shares["top1"], "top5": shares["top5"]}
    return {"samples": samples, "heads": heads}
