"""The teacher's weights: fitted on the training shards, or taken from a hub or a file.

Either way the stage leaves ``model.safetensors``, so that everything downstream depends on bytes and not on a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.base import timm_models
from pipeline.base.files import canonical_json, digest, write_durably
from pipeline.base.sums import require_sums, summed_directory
from pipeline.base.weights import load_strict, read_state, state_hash, write_state
from pipeline.data.shards import Shards
from pipeline.runtime.config import NONE, is_hub
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import device_name, rank, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.work import Work
from pipeline.teacher.class_order import check_class_order, listed_names, names_beside
from pipeline.teacher.config import NamedTeacher
from pipeline.teacher.model import Teacher, affine_of, create_teacher, read_teacher_initial, start_from
from pipeline.teacher.outputs import chosen_outputs, narrowed
from pipeline.training import loop
from pipeline.training.batches import Batch, Loader
from pipeline.training.config import FitConfig
from pipeline.training.labelled import with_labels_of
from pipeline.training.run_libraries import place_of
from pipeline.training.schedule import Schedule, lanes_of
from pipeline.training.step import share_buffers
from pipeline.views.recipe import in_timms_words
from pipeline.views.validation import top1, validation

MARKS = ("teacher.json",)  # by which a teacher's directory is known


@dataclass(frozen=True)
class FitInputs:
    """What a teacher is fitted on. ``initial``: the weights that it starts from, None for new ones."""

    train: Shards
    val: Shards
    initial: Mapping[str, torch.Tensor] | None


@dataclass(frozen=True)
class Fitted:
    """A teacher with its weights, and in words where these are from. ``top1``: percent on the validation split, on at most
    2,000 images where it was not fitted here; None: not asked."""

    model: Any
    classes: tuple[str, ...]
    weights: str
    top1: float | None


def open_fit_inputs(teacher: NamedTeacher, work: Work) -> FitInputs:
    """Raises UsageError or IntegrityError for shards and weights that are missing or damaged."""
    require_sums(*(work.split(split) / "manifest.json" for split in ("train", "val")))
    train, val = Shards.open(work.split("train")), Shards.open(work.split("val"))
    size = teacher.recipe.size
    return FitInputs(
        train, val, read_teacher_initial(teacher.config, size) if teacher.config.initial is not None else None
    )


def fit_teacher(teacher: NamedTeacher, fit: FitConfig, inputs: FitInputs, directory: Path, workers: int) -> Fitted:
    """Trains ``teacher``. It sees views normalised by its own ``mean`` and ``std``, as when it answers. ``directory``, or one
    beside it where other libraries made that, holds the checkpoints."""
    config, recipe, initial = teacher.config, teacher.recipe, inputs.initial
    device = pick_device()
    # The order of training.
    count, train = inputs.train.samples, with_labels_of(inputs.train, fit, only=True)
    sizes = tuple(block.samples for block in train.blocks)
    schedule = Schedule(fit.seed, sizes, 1, 1_000_000_000, fit.lanes, fit.window, fit.batch, epoch_samples=count)
    lanes = lanes_of(rank(), world_size(), fit.lanes)
    say(f"fit_teacher: {schedule.steps(fit.epochs)} steps of {fit.batch}, on {device_name()}")
    loader = Loader(schedule, lanes, train, recipe, device, workers)
    say(f"fit_teacher: {loader.ring()}")  # refused here if there is no room
    # The model, from new weights or from given ones, and its loss.
    torch.manual_seed(fit.seed)
    model = create_teacher(config, len(train.classes), pretrained=False, size=recipe.size)
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

    directory = place_of(directory, schedule.steps(fit.epochs), device)
    with loop.exclusive(directory):
        trained = loop.run("fit_teacher", model, loop.Task(compute), fit, loader, directory)
    if trained.average is not None:
        model.load_state_dict(trained.average)
    share_buffers(model)
    model.eval()
    share = top1(lambda images: model(normalised(images)), validation(inputs.val, recipe, device, workers), device)
    say(f"teacher {teacher.name}: {100 * share:.2f} % top-1 on the validation split")
    weights = "fitted" if initial is None else f"{config.initial}, fitted further"
    return Fitted(model, train.classes, weights, 100 * share)


def fit_key(teacher: NamedTeacher, fit: FitConfig, inputs: FitInputs, code: list[str]) -> str:
    """Hash of all that decides a fit's result; names its checkpoints."""
    others = {"recipe", "student", "fit", "initial", "initial_key", "class_order", "outputs"}
    chosen = teacher.config.model_dump(exclude=others)
    start = state_hash(inputs.initial) if inputs.initial is not None else None
    hashes = loop.code_hashes(code)
    return digest([chosen, fit.model_dump(), teacher.recipe.model_dump(), inputs.train.manifest_hash, start, hashes])


def trained_elsewhere(teacher: NamedTeacher, work: Work) -> Fitted:
    """``teacher`` with the weights that its config names, or with those of a trained student.

    Raises UsageError if they are missing, do not fit, or have another number or order of classes, IntegrityError if damaged.
    """
    require_sums(work.split("val") / "manifest.json")
    config, recipe, val = teacher.config, teacher.recipe, Shards.open(work.split("val"))
    classes, given = val.classes, config.student == NONE
    model: Any = create_teacher(config, len(classes), pretrained=given, size=recipe.size)
    if given:
        hub = is_hub(str(config.weights))
        names = model.pretrained_cfg.get("label_names") if hub else names_beside(Path(str(config.weights)))
        if config.outputs is not None:
            rows = chosen_outputs(config, model, listed_names(names, model.num_classes), classes)
            model, names = narrowed(config, model, rows, recipe.size), classes if config.outputs == "by_name" else None
            say(f"teacher {teacher.name}: {len(rows)} of its outputs are the data's classes")
    else:
        file = work.student(config.student) / "model.safetensors"
        require_sums(file)
        load_strict(model, read_state(file), f"teacher {config.arch}: student {config.student}")
        names = names_beside(file)
    asked = Teacher.of(model, config, len(classes), recipe, val.block_size, pick_device())
    top1 = check_class_order(teacher, asked.predict, names, val)
    return Fitted(model, classes, str(config.weights) if given else f"student {config.student}", top1)


def write_teacher(fitted: Fitted, teacher: NamedTeacher, out: Path) -> None:
    """``teacher.json`` (where the weights are from, how the teacher computes), ``model.safetensors`` and ``config.json``,
    by which timm loads it, in ``out``, whole or not at all."""
    config, recipe, model = teacher.config, teacher.recipe, fitted.model
    report = {
        "weights": fitted.weights,
        "computes": config.model_dump(mode="json", exclude={"recipe", "fit", "class_order", "outputs"}),
        **({"outputs": config.outputs} if config.outputs is not None else {}),
    }
    state, own = model.state_dict(), dict(model.pretrained_cfg)
    views = {
        **in_timms_words(recipe),
        "mean": list(config.mean),
        "std": list(config.std),
        **{name: own[name] for name in ("fixed_input_size", "first_conv", "classifier") if own.get(name) is not None},
    }
    arch_args = timm_models.sized(config.arch, config.arch_args, recipe.size)
    described = timm_models.description(model, config.arch, arch_args, fitted.classes, state_hash(state), views)
    with summed_directory(out, MARKS) as fresh:
        write_durably(
            fresh / "teacher.json", canonical_json(report | ({} if fitted.top1 is None else {"top1": fitted.top1}))
        )
        write_state(fresh / "model.safetensors", state)
        write_durably(fresh / "config.json", canonical_json(described))
    say(f"teacher: {out / 'model.safetensors'}")
