"""Training one student, distilled or not, from a cache or a live teacher."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pipeline.base.constraints import require_repeats
from pipeline.base.files import require_own, write_durably
from pipeline.base.sums import summed_directory
from pipeline.data.shards import Shards
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import device_name, rank, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.work import Work
from pipeline.student.config import StudentConfig
from pipeline.student.export import export as export_student
from pipeline.student.initial import load_initial
from pipeline.student.inputs import Inputs, NamedStudent
from pipeline.student.losses import Distillation, Loss, distillation_loss, smoothed_mixed_target
from pipeline.student.model import Heads, Student, create_student
from pipeline.student.supervision import sources
from pipeline.training import loop
from pipeline.training.batches import Batch, Loader
from pipeline.training.config import TrainConfig
from pipeline.training.labelled import with_labels_of
from pipeline.training.run_libraries import place_of
from pipeline.training.schedule import Schedule, lanes_of, period
from pipeline.training.state import Row
from pipeline.training.step import Compute
from pipeline.views.validation import all_scores, top1, validation

MARKS = ("config.json", "log.csv")  # by which a student's directory is known


def make_schedule(config: TrainConfig, shards: Shards, coverage: int, shared_pairing: int = 1) -> Schedule:
    """The schedule with its period K decided; the r views of a pair stand together where the recipe's ``shared_pairing``
    is r. ``shards`` may hold some of the samples: an epoch counts all. Raises UsageError for what does not fit."""
    draft = Schedule(
        seed=config.seed,
        blocks=tuple(block.samples for block in shards.blocks),
        repeats=config.repeats,
        period=config.repeats,
        lanes=config.lanes,
        window=config.window,
        batch=config.batch,
        together=config.repeats == shared_pairing,
        epoch_samples=shards.manifest.samples,
    )
    cycles = draft.cycles(draft.steps(config.epochs))
    return replace(draft, period=period(config.period, coverage, cycles, config.repeats))


def make_loss(config: TrainConfig, chosen: StudentConfig, classes: int) -> Callable[[Heads, Batch], Loss]:
    """The loss of a student's answers on a batch, as its and its training's entries say."""
    how = Distillation(chosen.distillation, chosen.alpha, chosen.tau, chosen.soft_reduction, chosen.soft_form)

    def loss_of(heads: Heads, batch: Batch) -> Loss:
        target = smoothed_mixed_target(batch.labels, batch.partner_labels, batch.lam, classes, config.smoothing)
        return distillation_loss(heads, target, batch.hard, batch.logits, how)

    return loss_of


def make_compute(config: TrainConfig, chosen: StudentConfig, classes: int) -> Compute:
    """``make_loss`` as the training loop takes it."""
    loss_of = make_loss(config, chosen, classes)

    def compute(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        loss = loss_of(model(batch.images), batch)
        return {"loss": loss.total, "task": loss.task.detach(), "distill": loss.distill.detach()}

    return compute


def make_loader(student: NamedStudent, inputs: Inputs, workers: int) -> Loader:
    """This rank's batches of ``student``: the order of training, and where targets come from. Raises UsageError when targets
    are missing (what and how many)."""
    chosen, config, recipe = student.config, student.training, student.recipe
    # An undistilled student has nothing to learn from an image without a label; it trains as many steps on the others.
    shards = with_labels_of(inputs.train, config, only=chosen.supervision == "none")
    if inputs.cache is not None:
        require_repeats(config.repeats, inputs.cache.layout.group)
    schedule = make_schedule(config, shards, inputs.coverage, recipe.shared_pairing)
    lanes = lanes_of(rank(), world_size(), config.lanes)
    verify = 1.0 if config.verify_views == "all" else config.verify_views
    targets = sources(chosen.supervision, schedule.period, verify, shards, inputs.cache, inputs.live)
    return Loader(schedule, lanes, shards, recipe, pick_device(), workers, *targets)


def make_student(student: NamedStudent, inputs: Inputs) -> Student:
    """A student, new or from trained weights, on its device."""
    torch.manual_seed(student.training.seed)
    model = create_student(student.config, len(inputs.train.classes), student.recipe.size)
    if inputs.initial is not None:
        load_initial(model, inputs.initial)
    return model.to(pick_device())


def require_start(student: NamedStudent, work: Work) -> None:
    """Refuses before the ranks wait for each other: another's output in its place, a number of ranks that does not fit."""
    require_own(work.student(student.name), MARKS)
    lanes_of(rank(), world_size(), student.training.lanes, f"trainings.{student.config.training}.lanes")


def train_student(
    student: NamedStudent,
    inputs: Inputs,
    directory: Path,
    workers: int,
    observe: Callable[[int, float], None] | None = None,
) -> loop.Trained:
    """Trains ``student``; ``directory``, or one beside it where other libraries made that, holds its checkpoints.

    Raises UsageError when targets are missing (what and how many), IntegrityError at the first view whose pixels are
    not the teacher's, RetryError when told to stop.
    """
    name, chosen, config, recipe = student.name, student.config, student.training, student.recipe
    loader = make_loader(student, inputs, workers)
    schedule, device = loader.schedule, loader.device
    say(
        f"{name}: {schedule.steps(config.epochs)} steps of {config.batch}, K = {schedule.period} views, r = {config.repeats}, "
        f"on {device_name()}"
    )
    say(f"{name}: {loader.ring()}")  # refused here if there is no room
    model = make_student(student, inputs)

    def score(last: nn.Module, average: nn.Module | None) -> Row:
        result = average if average is not None and config.result == "average" else last
        result.eval()

        def answer(images: torch.Tensor) -> torch.Tensor:
            return result(images).fused()

        if config.score == "top1":
            return {"val_top1": top1(answer, validation(inputs.val, recipe, device, workers), device)}
        found: Row = {}
        for split, images in {"val": inputs.val, "train": inputs.train}.items():
            scores = all_scores(answer, validation(images, recipe, device, workers))
            found |= {f"{split}_{key}": value for key, value in scores.items()}
        return found

    task = loop.Task(make_compute(config, chosen, len(inputs.train.classes)), score, observe)
    directory = place_of(directory, schedule.steps(config.epochs), device)
    with loop.exclusive(directory):
        return loop.run(name, model, task, config, loader, directory)


def write_student(trained: loop.Trained, student: NamedStudent, classes: Sequence[str], out: Path) -> None:
    """``model.safetensors`` + ``config.json`` (timm) of the weights that ``config.result`` names, the same of the others
    below (``ema/`` the average, or ``last/``), ``log.csv``."""
    config, chosen, recipe = student.training, student.config, student.recipe
    text = io.StringIO()
    table = csv.DictWriter(text, list(trained.rows[-1]), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(trained.rows)
    with summed_directory(out, MARKS) as fresh:
        write_durably(fresh / "log.csv", text.getvalue().encode())
        last = trained.model
        assert isinstance(last, Student)
        places = {fresh: last}
        if trained.average is not None:
            average = create_student(chosen, len(classes), recipe.size)
            average.load_state_dict(trained.average)
            averaged = config.result == "average"
            places = {fresh / "last": last, fresh: average} if averaged else {fresh / "ema": average, fresh: last}
        for place, made in places.items():  # the result last
            export_student(made, chosen, classes, recipe, place)
