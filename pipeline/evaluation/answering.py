"""Runs a model over a test set, once, and gathers its answers from all ranks, each sample once."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.base.scores import ranks
from pipeline.data.shards import Shards
from pipeline.evaluation.answers import Answers
from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import from_all_ranks, rank, world_size
from pipeline.runtime.memory import enough_memory
from pipeline.runtime.progress import progress
from pipeline.runtime.watchdog import watched
from pipeline.views.recipe import Recipe, evaluation
from pipeline.views.validation import validation

ByHead = Mapping[str, Tensor]  # float (n, C) by head: logits, or other scores that rank the classes
_STORED = ("class", "distillation")  # the heads whose logits are kept; the others follow from these
_HALF = 65504.0  # the largest float16


@torch.inference_mode()
def answers_of(
    answer: Callable[[Tensor], ByHead], model: str, name: str, split: Shards, recipe: Recipe, workers: int
) -> Answers:
    """The answers of a model on ``split``, under ``recipe`` without chance; every rank returns those on the whole split.

    ``answer``: finished images float32 (n, 3, R, R) -> scores by head. ``model``: hash of its weights. ``name`` is for
    messages. Raises IntegrityError for damaged shards and for scores that are not finite.
    """
    parts: dict[int, dict[str, np.ndarray]] = {}
    mine = split.blocks[rank() :: world_size()]
    with (
        enough_memory(block=split.block_size, workers=workers),
        watched(name),
        progress(name, len(mine), "blocks") as tick,
    ):
        for block in validation(split, recipe, pick_device(), workers):
            found = {"digests": np.array([block.digest])}
            for head, scores in answer(block.images).items():
                if not bool(torch.isfinite(scores).all()):
                    where = f"block {block.block.index} of {split.root}"
                    raise IntegrityError(f"{name}: scores that are not finite in {where}; its weights are damaged")
                found[f"ranks.{head}"] = ranks(scores, block.labels).cpu().numpy().astype(np.uint16)
                found[f"hard.{head}"] = scores.argmax(1).cpu().numpy().astype(np.uint16)
                if head in _STORED:
                    found[f"logits.{head}"] = scores.clamp(-_HALF, _HALF).half().cpu().numpy()
            parts[block.block.index] = found
            tick()
    parts = {index: part for those in from_all_ranks(parts) for index, part in those.items()}
    if sorted(parts) != list(range(len(split.blocks))):
        raise IntegrityError(f"{name}: {len(parts)} of {len(split.blocks)} blocks were answered; run it again")
    # One array per column, in the order of the blocks.
    columns = {key: np.concatenate([parts[i][key] for i in range(len(parts))]) for key in parts[0]}
    columns["labels"] = np.concatenate([split.labels(block) for block in split.blocks]).astype(np.uint16)
    seen = evaluation(recipe).model_dump(mode="json")
    identity = {"model": model, "shards": list(split.hashes), "classes": list(split.classes), "recipe": seen}
    return Answers.of_columns(identity, columns)
