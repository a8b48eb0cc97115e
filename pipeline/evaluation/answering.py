"""Running a model over a test set, once: what it answers, sample by sample, from all ranks and no sample twice."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.base.scores import ranks
from pipeline.data.shards import Shards
from pipeline.evaluation.predictions import Predictions
from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import rank, world_size
from pipeline.runtime.progress import progress
from pipeline.views.recipe import Recipe, evaluation
from pipeline.views.validation import validation

Scores = Mapping[str, Tensor]  # by head, float (n, C)
STORED = ("class", "distillation")  # the heads whose logits are kept; the others follow from these
_HALF = 65504.0  # the largest float16


@torch.inference_mode()
def answers_of(
    answer: Callable[[Tensor], Scores], model: str, name: str, split: Shards, recipe: Recipe, workers: int
) -> Predictions:
    """The answers of the model with weights of hash ``model`` on ``split``, under ``recipe`` without chance.

    ``answer``: finished images float32 (n, 3, R, R) -> scores by head. ``name`` is for messages. Every rank returns the
    answers on the whole split. Raises IntegrityError for damaged shards and for scores that are not finite.
    """
    device = pick_device()
    parts: dict[int, dict[str, np.ndarray]] = {}
    mine = split.blocks[rank() :: world_size()]
    with progress(name, len(mine), "blocks") as tick:
        for block in validation(split, recipe, device, workers):
            found: dict[str, np.ndarray] = {"digest": np.array([block.digest])}
            for head, scores in answer(block.images).items():
                if not bool(torch.isfinite(scores).all()):
                    where = f"block {block.block.index} of {split.root}"
                    raise IntegrityError(f"{name}: scores that are not finite in {where}; its weights are damaged")
                found[f"ranks.{head}"] = ranks(scores, block.labels).cpu().numpy().astype(np.uint16)
                found[f"hard.{head}"] = scores.argmax(1).cpu().numpy().astype(np.uint16)
                if head in STORED:
                    found[f"logits.{head}"] = scores.clamp(-_HALF, _HALF).half().cpu().numpy()
            parts[block.block.index] = found
            tick()
    parts = _from_all_ranks(parts)
    if sorted(parts) != list(range(len(split.blocks))):
        raise IntegrityError(f"{name}: {len(parts)} of {len(split.blocks)} blocks were answered; run it again")
    # One array per column, in the order of the blocks.
    columns = {key: np.concatenate([parts[i][key] for i in range(len(parts))]) for key in parts[0]}
    kinds: dict[str, dict[str, np.ndarray]] = {"logits": {}, "ranks": {}, "hard": {}}
    for key, column in columns.items():
        kind, _, head = key.partition(".")
        if kind in kinds:
            kinds[kind][head] = column
    labels = np.concatenate([split.labels(block) for block in split.blocks]).astype(np.uint16)
    return Predictions(_identity(model, split, recipe), labels, columns["digest"], **kinds)


def _identity(model: str, split: Shards, recipe: Recipe) -> dict[str, Any]:
    seen = evaluation(recipe).model_dump(mode="json")
    return {"model": model, "shards": list(split.hashes), "classes": list(split.classes), "recipe": seen}


def _from_all_ranks(parts: dict[int, dict[str, np.ndarray]]) -> dict[int, dict[str, np.ndarray]]:
    if world_size() == 1:
        return parts
    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, parts)
    return {index: part for those in gathered for index, part in those.items()}
