"""Running a model over a validation split: natural order, no chance, nothing dropped or counted twice."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.base.scores import auc, macro, ranks
from pipeline.data.images import Rule
from pipeline.data.shards import Block, Sample, Shards
from pipeline.runtime.machine import from_all_ranks, rank, sum_over_ranks, world_size
from pipeline.runtime.watchdog import beat
from pipeline.views.choose import Visit
from pipeline.views.drawn import draw_here
from pipeline.views.finish import finish, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Recipe, evaluation
from pipeline.views.workers import read_visits

_ENOUGH = 1024  # samples per worker: starting a process costs as much as drawing about so many


@dataclass(frozen=True)
class ValidationBlock:
    """One validation block: ``images`` finished float32 (n, 3, R, R) and ``labels`` int64 (n,), on the device.
    ``digest``: xxh3_64 of its pixels."""

    block: Block
    digest: str
    images: torch.Tensor
    labels: torch.Tensor


def validation(shards: Shards, recipe: Recipe, device: torch.device, workers: int) -> Iterator[ValidationBlock]:
    """This rank's blocks of a validation split under the ``evaluation`` recipe. The ranks' blocks are disjoint."""
    recipe = evaluation(recipe)
    blocks = shards.blocks[rank() :: world_size()]
    mine = [Visit(block.index, 0, 1, 0) for block in blocks]
    samples = sum(block.samples for block in blocks)
    few = min(workers, samples // _ENOUGH)
    for drawn in read_visits(shards, recipe, mine, 1, few):
        beat()
        plan = drawn.plan.view(0).to(device)
        images = finish(drawn.pixels[0].to(device), plan, recipe)
        yield ValidationBlock(drawn.block, drawn.digests[0], images, drawn.labels.to(device))


def evaluation_views(samples: Sequence[Sample], recipe: Recipe, rule: Rule) -> torch.Tensor:
    """The views of these samples that ``validation`` gives, float32 (n, 3, R, R) on the CPU. Raises Undecodable."""
    recipe = evaluation(recipe)
    [chosen], pixels = draw_here(samples, recipe, 0, 1, rule)
    plan = finish_plan(chosen, pair(recipe, samples[0].key, 0, len(samples)), recipe.erase.count)
    return finish(pixels[0], plan, recipe)


def views_of_rows(shards: Shards, rows: Sequence[int], recipe: Recipe) -> torch.Tensor:
    """``evaluation_views`` of samples of a split, chosen by their rows. Raises IntegrityError if a shard is damaged."""
    samples = []
    for row in rows:
        block = next(block for block in shards.blocks if row < block.row + block.samples)
        samples += shards.read(Block(block.index, block.shard, block.first + row - block.row, row, 1))
    return evaluation_views(samples, recipe, shards.rule)


@torch.inference_mode()
def top1(
    predict: Callable[[torch.Tensor], torch.Tensor], split: Iterator[ValidationBlock], device: torch.device
) -> float:
    """Share of right answers of ``predict``: images (n, 3, R, R) -> scores (n, C); over all ranks."""
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    for block in split:
        counts[0] += (predict(block.images).argmax(1) == block.labels).sum()
        counts[1] += len(block.labels)
    right, samples = sum_over_ranks(counts)
    return float(right / samples)


@torch.inference_mode()
def all_scores(predict: Callable[[torch.Tensor], torch.Tensor], split: Iterator[ValidationBlock]) -> dict[str, float]:
    """``top1``, ``top5``, macro ``precision``, ``recall`` and ``f1`` as shares, and ``auc`` (nan where all samples are of one
    class), of the answers of ``predict``, as ``top1`` takes it; over all ranks."""
    own = [(predict(block.images).float().cpu(), block.labels.cpu()) for block in split]
    parts = [part for those in from_all_ranks(own) for part in those]
    scores, labels = (torch.cat([part[i] for part in parts]) for i in range(2))
    places, known = ranks(scores, labels), labels.numpy()
    found = {"top1": float((places < 1).double().mean()), "top5": float((places < 5).double().mean())}
    found |= {key: value / 100 for key, value in macro(scores.argmax(1).numpy(), known).items()}
    area = auc(scores.numpy(), known)
    return found | {"auc": math.nan if area is None else area}
