"""Scores of a trained student on the validation split, per head, and its agreement with the teacher."""

from pathlib import Path
from typing import Any

import torch

from pipeline.cache.identity import check_views
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.evaluation import metrics
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import world_size
from pipeline.student.export import live_fraction, read_log, require_trained_for
from pipeline.student.export import load as load_student
from pipeline.student.model import Student
from pipeline.views.recipe import Recipe, evaluation
from pipeline.views.validation import validation


def evaluate(directory: Path, val: Shards, recipe: Recipe, cache: Path | None, workers: int) -> dict[str, Any]:
    """``metrics.json`` of the student in ``directory``: its heads, the same of its average under ``ema`` where it has
    one, ``live_fraction`` of its training, and ``agreement`` with the teacher whose answers are in ``cache``.

    Raises UsageError (nothing there), IdentityError (a student or a cache of other classes or views), IntegrityError.
    """
    model = load_student(directory)
    require_trained_for(directory, val.classes, recipe)
    teacher = None
    if cache is not None:
        teacher = open_cache(cache)
        check_views(teacher, val, evaluation(recipe), pick_device(), cache)
    found = score(model, val, recipe, teacher, workers)
    average = directory / "ema"
    if average.is_dir():
        found["ema"] = score(load_student(average), val, recipe, teacher, workers)["heads"]
    return found | {"live_fraction": live_fraction(read_log(directory))}


@torch.inference_mode()
def score(model: Student, val: Shards, recipe: Recipe, teacher: Cache | None, workers: int) -> dict[str, Any]:
    """Percentages per head (``metrics.summary``). ``teacher``: the V = 1 cache of its answers on the same split."""
    device = pick_device()
    model.to(device).eval()
    counts = torch.zeros(1 + len(metrics.HEADS) * len(metrics.COUNTS), dtype=torch.int64, device=device)
    for seen in validation(val, recipe, device, workers):
        hard = None
        if teacher is not None:
            teacher.require_pixels(seen.block, 0, seen.digest, val.names[seen.block.shard])
            hard = torch.from_numpy(teacher.read(seen.block, 0, 1).hard[0].astype("int64")).to(device)
        counts += metrics.count(model(seen.images), seen.labels, hard)
    if world_size() > 1:
        torch.distributed.all_reduce(counts)
    return metrics.summary(counts.cpu(), distillation=model.distilled, teacher=teacher is not None)
