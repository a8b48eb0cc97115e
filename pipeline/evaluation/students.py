"""What a trained student answers, and its tokens, size and speed."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base.weights import state_hash
from pipeline.data.shards import Shards
from pipeline.evaluation import inside
from pipeline.evaluation.answering import answers_of
from pipeline.evaluation.answers import Answers
from pipeline.evaluation.scores import scores_of
from pipeline.runtime.machine import device as pick_device
from pipeline.student.export import BESIDE, live_fraction, load_student, read_log, require_trained_for
from pipeline.student.model import Student
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class Evaluated:
    """``answers`` by test set. ``others``: those of the weights that are kept ``beside`` the student (``export.BESIDE``, None
    for none), without logits. ``facts``: what metrics.json holds besides scores. ``speed`` is this machine's, so no output."""

    answers: Mapping[str, Answers]
    beside: str | None
    others: Mapping[str, Answers]
    facts: Mapping[str, Any]
    speed: Mapping[str, Any]


def evaluate(directory: Path, sets: Mapping[str, tuple[Shards, Recipe]], workers: int) -> Evaluated:
    """Runs the student in ``directory``, and the weights beside it, once over each test set: its images under its recipe.
    The first set is the validation split.

    Raises UsageError (nothing there), IdentityError (a student of other classes or views), IntegrityError (damage).
    """
    device = pick_device()
    model = load_student(directory).to(device)
    split, recipe = next(iter(sets.values()))
    require_trained_for(directory, split.classes, recipe)
    beside = next((name for name in BESIDE if (directory / name).is_dir()), None)
    other = load_student(directory / beside) if beside is not None else None
    answers, others, facts = dict[str, Answers](), dict[str, Answers](), dict[str, Any]()
    batch = torch.zeros(split.block_size, 3, recipe.size, recipe.size, device=device)
    facts["live_fraction"] = live_fraction(read_log(directory))
    facts["parameters"] = sum(value.numel() for value in model.parameters())
    facts["gflops"] = inside.gflops(lambda: model(batch[:1]))
    for name, (images, seen) in sets.items():
        with inside.token_sums(model.model) if model.distilled and not answers else nullcontext() as sums:
            answers[name] = student_answers(model, directory.name, images, seen, workers)
        if sums is not None:
            facts["tokens"] = inside.similarities(model.model, sums)
        if other is not None:
            whole = student_answers(other, f"{directory.name}, {beside}", images, seen, workers)
            others[name] = replace(whole, logits={})
    speed = {"images_per_second": inside.images_per_second(model, batch), "batch": len(batch), "device": str(device)}
    return Evaluated(answers, beside, others, facts, speed)


def student_answers(model: Student, name: str, split: Shards, recipe: Recipe, workers: int) -> Answers:
    """A student's answers on a split. Raises what ``answering.answers_of`` raises."""
    weights = state_hash(model.model.state_dict())
    model.to(pick_device()).eval()
    return answers_of(lambda images: by_head(model, images), weights, name, split, recipe, workers)


def by_head(model: Student, images: Tensor) -> dict[str, Tensor]:
    """Scores of finished images float32 (n, 3, R, R) by each of ``answers.HEADS`` that the student has."""
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
        heads = {head: scores_of(answers, head) for head in answers.heads}
        sets[name] = {"samples": len(answers.labels), "best": answers.best, "heads": heads}
        if found.beside is not None:
            other = found.others[name]
            sets[name][found.beside] = {head: scores_of(other, head) for head in other.heads}
    return {"sets": sets, **found.facts}


def headline(scored: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers that ``dvc exp show`` and ``dvc metrics diff`` show."""
    first = next(iter(scored["sets"].values()))
    best = first["heads"][first["best"]]
    return {
        "top1": best["top1"],
        "class_top1": first["heads"]["class"]["top1"],
        "loss": best["loss"],
        "calibration_error": best["calibration_error"],
    }
