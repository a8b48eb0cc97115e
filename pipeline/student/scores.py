"""All scores of a student on a split, for its log: with ``score: all``. Apart from ``views.validation``, which teachers use."""

import math
from collections.abc import Callable, Iterator

import torch

from pipeline.base.scores import auc, macro, ranks
from pipeline.runtime.machine import world_size
from pipeline.views.validation import ValidationBlock


@torch.inference_mode()
def all_scores(predict: Callable[[torch.Tensor], torch.Tensor], split: Iterator[ValidationBlock]) -> dict[str, float]:
    """``top1``, ``top5``, macro ``precision``, ``recall`` and ``f1`` as shares, and ``auc`` (nan where all samples are of one
    class), of the answers of ``predict``, as ``top1`` takes it; over all ranks."""
    parts = [(predict(block.images).float().cpu(), block.labels.cpu()) for block in split]
    if world_size() > 1:
        gathered: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(world_size())]
        torch.distributed.all_gather_object(gathered, parts)
        parts = [part for those in gathered for part in those]
    scores, labels = (torch.cat([part[i] for part in parts]) for i in range(2))
    places, known = ranks(scores, labels), labels.numpy()
    found = {"top1": float((places < 1).double().mean()), "top5": float((places < 5).double().mean())}
    found |= {key: value / 100 for key, value in macro(scores.argmax(1).numpy(), known).items()}
    area = auc(scores.numpy(), known)
    return found | {"auc": math.nan if area is None else area}
