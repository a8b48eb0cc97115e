"""The teacher's weights: fitted on the training shards, or taken from a hub or a file.

Either way the stage leaves ``model.safetensors``, so that everything downstream depends on bytes and not on a name.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.base import timm_models
from pipeline.base.files import canonical_json, digest, whole_directory, write_durably
from pipeline.base.weights import load_strict, read_state, state_hash, write_state
from pipeline.data.shards import Shards
from pipeline.runtime.config import NONE
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import device_name, rank, world_size
from pipeline.runtime.progress import say
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import affine_of, create, start_from
from pipeline.training import loop
from pipeline.training.batches import Batch, batches, windows_size
from pipeline.training.config import FitConfig
from pipeline.training.labelled import with_labels_of
from pipeline.training.run_libraries import place_of
from pipeline.training.schedule import Schedule, lanes_of
from pipeline.views.recipe import Recipe, in_timms_words
from pipeline.views.validation import top1, validation

MARKS = ("teacher.json",)  # by which a teacher's directory is known


def fit_teacher(
    config: TeacherConfig,
    fit: FitConfig,
    recipe: Recipe,
    train: Shards,
    val: Shards,
    directory: Path,
    workers: int,
    initial: Mapping[str, torch.Tensor] | None = None,
) -> tuple[nn.Module, float]:
    """Trains the teacher of ``config`` from new weights or from ``initial``; its model and top-1 on ``val``.
    It sees views normalised by its own ``mean`` and ``std``, as when it answers. ``directory``: checkpoints."""
    device = pick_device()
    count, train = train.samples, with_labels_of(train, fit, only=True)
    sizes = tuple(block.samples for block in train.blocks)
    schedule = Schedule(fit.seed, sizes, 1, 1_000_000_000, fit.lanes, fit.window, fit.batch, epoch_samples=count)
    lanes = lanes_of(rank(), world_size(), fit.lanes)
    say(f"fit_teacher: {schedule.steps(fit.epochs)} steps of {fit.batch}, on {device_name()}")
    say(f"fit_teacher: {windows_size(schedule, lanes, train, recipe, workers)}")  # refused here if there is no room
    torch.manual_seed(fit.seed)
    model = create(config, len(train.classes), pretrained=False, size=recipe.size)
    if initial is not None:
        start_from(model, initial)
    model.to(device)
    affine = affine_of(recipe, config, device)

    def normalised(images: torch.Tensor) -> torch.Tensor:
        return images if affine is None else images * affine[0] + affine[1]

    def compute(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        scores = model(normalised(batch.images)).float()
        own, other = (
            functional.cross_entropy(scores, labels, reduction="none", label_smoothing=fit.smoothing)
            for labels in (batch.labels, batch.partner_labels)
        )
        return {"loss": (batch.lam * own + (1.0 - batch.lam) * other).mean()}

    def load(start: int, stop: int) -> Generator[Batch, None, None]:
        return batches(schedule, lanes, start, stop, train, recipe, device, workers)

    directory = place_of(directory, schedule.steps(fit.epochs), device)
    with loop.exclusive(directory):
        trained = loop.run("fit_teacher", model, compute, fit, schedule, load, directory, device)
    if trained.average is not None:
        model.load_state_dict(trained.average)
    if world_size() > 1:  # each rank has batch-norm statistics of its own; those of rank 0 are kept, and scored
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    model.eval()
    return model, top1(lambda images: model(normalised(images)), validation(val, recipe, device, workers), device)


def run_key(
    config: TeacherConfig,
    fit: FitConfig,
    recipe: Recipe,
    train: Shards,
    initial: Mapping[str, torch.Tensor] | None,
    code: list[str],
) -> str:
    """Hash of all that decides a fit's result; names its checkpoints."""
    chosen = config.model_dump(exclude={"recipe", "student", "fit", "initial", "initial_key"})
    start = state_hash(initial) if initial is not None else None
    hashes = loop.code_hashes(code)
    return digest([chosen, fit.model_dump(), recipe.model_dump(), train.manifest_hash, start, hashes])


def trained_elsewhere(config: TeacherConfig, recipe: Recipe, classes: int, student: Path) -> tuple[nn.Module, str]:
    """The teacher of ``recipe``'s size with the weights that its config names, or with those of the trained ``student``; and
    their name.

    Raises UsageError if they are missing, do not fit or have another number of classes, IntegrityError if damaged.
    """
    if config.student == NONE:
        return create(config, classes, pretrained=True, size=recipe.size), str(config.weights)
    model = create(config, classes, pretrained=False, size=recipe.size)
    load_strict(model, read_state(student / "model.safetensors"), f"teacher {config.arch}: student {config.student}")
    return model, f"student {config.student}"


def write_teacher(
    model: Any,
    config: TeacherConfig,
    recipe: Recipe,
    classes: Sequence[str],
    weights: str,
    top1: float | None,
    out: Path,
) -> None:
    """``teacher.json`` (where the weights are from, how the teacher computes), ``model.safetensors`` and ``config.json``,
    by which timm loads it, in ``out``, whole or not at all. ``top1``: percent on the validation split, None where it was
    not fitted here."""
    report = {"weights": weights, "computes": config.model_dump(mode="json", exclude={"recipe", "fit"})}
    state, own = model.state_dict(), dict(model.pretrained_cfg)
    views = {
        **in_timms_words(recipe),
        "mean": list(config.mean),
        "std": list(config.std),
        **{name: own[name] for name in ("fixed_input_size", "first_conv", "classifier") if own.get(name) is not None},
    }
    arch_args = timm_models.sized(config.arch, config.arch_args, recipe.size)
    described = timm_models.description(model, config.arch, arch_args, classes, state_hash(state), views)
    with whole_directory(out, MARKS) as fresh:
        write_durably(fresh / "teacher.json", canonical_json(report | ({} if top1 is None else {"top1": top1})))
        write_state(fresh / "model.safetensors", state)
        write_durably(fresh / "config.json", canonical_json(described))
    say(f"teacher: {out / 'model.safetensors'}")
