"""Scores of a trained student on the validation split, per head, and its agreement with the teachers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.base import difference
from pipeline.cache.identity import require_weights, views_identity
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.evaluation import metrics
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import world_size
from pipeline.student.export import live_fraction, load, read_log, require_trained_for
from pipeline.student.model import Student
from pipeline.views.recipe import Recipe, evaluation
from pipeline.views.validation import Seen, validation


def evaluate(directory: Path, val: Shards, recipe: Recipe, answers: Mapping[str, Path], workers: int) -> dict[str, Any]:
    """``metrics.json`` of the student in ``directory``: its heads, the same of its average under ``ema`` where it has
    one, ``live_fraction`` of its training, and ``agreement`` with each teacher, whose answers are in ``answers``.

    Raises UsageError (nothing there), IdentityError (a student or answers of other classes or views), IntegrityError.
    """
    model = load(directory)
    require_trained_for(directory, val.classes, recipe)
    teachers = {name: open_answers(path, val, recipe) for name, path in answers.items()}
    found = score(model, val, recipe, teachers, workers)
    average = directory / "ema"
    if average.is_dir():
        found["ema"] = score(load(average), val, recipe, teachers, workers)["heads"]
    return found | {"live_fraction": live_fraction(read_log(directory))}


@dataclass(frozen=True)
class Answers:
    """A teacher's answers on a split; ``same_views``: it saw the very views that the student sees."""

    cache: Cache
    same_views: bool

    def hard(self, seen: Seen, shard: str) -> torch.Tensor:
        """Its hard labels int64 (n,) of one block. Raises IntegrityError for damage and for other pixels."""
        if self.same_views:
            self.cache.require_pixels(seen.block, 0, seen.digest, shard)
        return torch.from_numpy(self.cache.read(seen.block, 0, 1).hard[0].astype("int64")).to(seen.labels.device)


def open_answers(path: Path, val: Shards, recipe: Recipe) -> Answers:
    """A teacher's answers on ``val``: of a teacher of the same recipe on the very views of the student, of one of another
    recipe (perhaps of another size) on the same images. Raises IdentityError."""
    cache = open_cache(path)
    expected = views_identity(val, evaluation(recipe), pick_device())
    same_views = cache.identity["recipe"] == expected["recipe"]
    if not same_views:
        expected = {name: expected[name] for name in ("shards", "classes")}
    again = f"write them again with: python -m stages.answers --teacher {path.name}"
    difference.require_same(cache.identity | expected, cache.identity, str(path), again)
    require_weights(cache, path.parents[1] / "teachers" / path.name / "model.safetensors", path)
    return Answers(cache, same_views)


@torch.inference_mode()
def score(model: Student, val: Shards, recipe: Recipe, teachers: Mapping[str, Answers], workers: int) -> dict[str, Any]:
    """Percentages per head (``metrics.summary``), with ``agreement.<teacher>`` for each of ``teachers``."""
    device = pick_device()
    model.to(device).eval()
    counts = torch.zeros((max(1, len(teachers)), metrics.SIZE), dtype=torch.int64, device=device)
    for seen in validation(val, recipe, device, workers):
        heads, shard = model(seen.images), val.names[seen.block.shard]
        hard: list[torch.Tensor | None] = [answers.hard(seen, shard) for answers in teachers.values()] or [None]
        counts += torch.stack([metrics.count(heads, seen.labels, labels) for labels in hard])
    if world_size() > 1:
        torch.distributed.all_reduce(counts)
    found = [metrics.summary(row, distillation=model.distilled, teacher=bool(teachers)) for row in counts.cpu()]
    for head, shares in found[0]["heads"].items():
        if teachers:
            shares["agreement"] = {name: of["heads"][head]["agreement"] for name, of in zip(teachers, found)}
    return found[0]
