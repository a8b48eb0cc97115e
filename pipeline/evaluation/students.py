"""What a trained student answers, and what is known of it besides: heads, other weights, tokens, size, speed."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base.weights import state_hash
from pipeline.data.shards import Shards
from pipeline.evaluation import metrics, size, tokens
from pipeline.evaluation.answering import answers_of
from pipeline.evaluation.predictions import Predictions
from pipeline.runtime.machine import device as pick_device
from pipeline.student.export import BESIDE, live_fraction, load, read_log, require_trained_for
from pipeline.student.model import Student
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class Evaluated:
    """Answers by test set; of the weights that are kept ``beside`` the student's (``export.BESIDE``, None where there are
    none) the ranks only. ``facts``: what metrics.json adds to the scores. ``speed``: of this machine, and so no output."""

    answers: Mapping[str, Predictions]
    beside: str | None
    others: Mapping[str, Predictions]
    facts: Mapping[str, Any]
    speed: Mapping[str, Any]


def evaluate(directory: Path, sets: Mapping[str, tuple[Shards, Recipe]], workers: int) -> Evaluated:
    """Runs the student in ``directory``, and the weights beside it, once over each test set (its images, and the recipe
    that they are seen under); the first one is the validation split.

    Raises UsageError (nothing there), IdentityError (a student of other classes or views), IntegrityError (damage).
    """
    model = load(directory)
    split, recipe = next(iter(sets.values()))
    require_trained_for(directory, split.classes, recipe)
    beside = next((name for name in BESIDE if (directory / name).is_dir()), None)
    other = load(directory / beside) if beside is not None else None
    device = pick_device()
    answers, others, similar = dict[str, Predictions](), dict[str, Predictions](), dict[str, Any]()
    for name, (images, seen) in sets.items():
        first = not answers
        with tokens.watched(model.model) if model.distilled and first else nullcontext() as sums:
            answers[name] = student_answers(model, directory.name, images, seen, workers)
        if sums is not None:
            similar = {"tokens": tokens.similarities(model.model, sums)}
        if other is not None:
            whole = student_answers(other, f"{directory.name}, {beside}", images, seen, workers)
            others[name] = Predictions(whole.identity, whole.labels, whole.digests, {}, whole.ranks, whole.hard)
    images_ = torch.zeros(split.block_size, 3, recipe.size, recipe.size, device=device)
    facts = {
        "live_fraction": live_fraction(read_log(directory)),
        "parameters": size.parameters(model),
        "gflops": size.gflops(lambda: model(images_[:1])),
    }
    speed = {"images_per_second": size.images_per_second(model, images_), "batch": len(images_), "device": str(device)}
    return Evaluated(answers, beside, others, facts | similar, speed)


def student_answers(model: Student, name: str, split: Shards, recipe: Recipe, workers: int) -> Predictions:
    """A student's answers on a split by head, as ``answering.answers_of`` gives and refuses them."""
    weights = state_hash(model.model.state_dict())
    model.to(pick_device()).eval()
    return answers_of(lambda images: scores(model, images), weights, name, split, recipe, workers)


def scores(model: Student, images: Tensor) -> dict[str, Tensor]:
    """Scores by head (``predictions.HEADS``) for finished images float32 (n, 3, R, R)."""
    heads = model(images)
    found = {"class": heads.class_logits.float()}
    if heads.distillation_logits is not None:
        found["distillation"] = heads.distillation_logits.float()
        found |= {"fused": heads.fused(), "mean": (found["class"] + found["distillation"]) / 2}
    return found


def scores_json(found: Evaluated) -> dict[str, Any]:
    """``metrics.json``: ``sets.<set>.{samples,best,heads.<head>,ema.<head>}`` (or ``last``) and the facts."""
    sets = {}
    for name, answers in found.answers.items():
        heads = {head: metrics.of_head(answers, head) for head in answers.heads}
        sets[name] = {"samples": len(answers.labels), "best": answers.best, "heads": heads}
        if found.beside is not None:
            other = found.others[name]
            sets[name][found.beside] = {head: metrics.of_head(other, head) for head in other.heads}
    return {"sets": sets, **found.facts}


def headline(scored: Mapping[str, Any]) -> dict[str, float]:
    """The few columns that ``dvc exp show`` and ``dvc metrics diff`` are to show."""
    first = next(iter(scored["sets"].values()))
    best = first["heads"][first["best"]]
    return {
        "top1": best["top1"],
        "class_top1": first["heads"]["class"]["top1"],
        "loss": best["loss"],
        "calibration_error": best["calibration_error"],
    }
