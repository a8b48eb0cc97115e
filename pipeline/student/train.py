"""Training one student, distilled or not, from a cache or a live teacher."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pipeline.base.files import digest, sha256_file, whole_directory, write_durably
from pipeline.cache.identity import cache_identity, check_maker, check_views, require_identity
from pipeline.cache.layout import CacheConfig, layout_of
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import device_name, rank, world_size
from pipeline.runtime.progress import say
from pipeline.student.config import StudentConfig, waits_for
from pipeline.student.export import export as export_student
from pipeline.student.initial import initial_state, load_initial
from pipeline.student.losses import distillation_loss, smoothed_mixed_target
from pipeline.student.model import Student
from pipeline.student.model import create as create_student
from pipeline.student.supervision import FromTeacher, sources
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import Teacher
from pipeline.training import loop
from pipeline.training.batches import Batch, batches, memory_needed
from pipeline.training.config import TrainConfig
from pipeline.training.schedule import Schedule, Supervise, check_repeats, lanes_of, period
from pipeline.views.recipe import Recipe
from pipeline.views.validation import top1, validation

MARKS = ("config.json", "log.csv")  # by which a student's directory is known


@dataclass(frozen=True)
class Inputs:
    """What a student learns from. ``views``: V that the config promises; undistilled students of the same training
    cycle through it as well, so that all see the same views."""

    train: Shards
    val: Shards
    recipe: Recipe
    views: int
    cache: Cache | None
    live: FromTeacher | None


def open_inputs(
    shards: Path,
    recipe: Recipe,
    config: CacheConfig,
    chosen: StudentConfig,
    teacher: TeacherConfig,
    cache: Path | None,
    teacher_folder: Path | None,
) -> Inputs:
    """Opens what ``chosen`` needs, and only that. Raises UsageError for what is missing, IdentityError for a cache of
    another recipe, data set, image library or (where the live teacher is used as well) teacher."""
    device = pick_device()
    train = Shards.open(shards / "train")
    expected = waits_for(chosen.supervise, config.name, teacher.name)
    if chosen.waits_for != expected:
        raise UsageError(
            f"students: waits_for: expected {expected}, found {chosen.waits_for}: DVC would watch the wrong files; correct "
            f"it, or write params.yaml again with: python -m stages.configure"
        )
    opened, live = None, None
    if chosen.supervise in ("cached", "auto"):
        if cache is None:
            raise UsageError(f"supervise: {chosen.supervise} needs --cache work/caches/{config.name}")
        opened = open_cache(cache)
        check_views(opened, train, recipe, device, cache)
        check_maker(opened, layout_of(train, config), teacher.model_dump(mode="json"), cache)
    if chosen.supervise in ("live", "auto"):
        if teacher_folder is None:
            raise UsageError(f"supervise: {chosen.supervise} needs --teacher work/teachers/{teacher.name}")
        weights = teacher_folder / "model.safetensors"
        model = Teacher.load(teacher, weights, len(train.classes), recipe, train.block_size, device)
        live = FromTeacher(model, recipe, config.codec)
        if opened is not None and cache is not None:
            whole = cache_identity(train, recipe, layout_of(train, config), model.identity(), device)
            require_identity(opened, whole, cache)
    return Inputs(train, Shards.open(shards / "val"), recipe, config.views, opened, live)


def run_key(config: TrainConfig, chosen: StudentConfig, inputs: Inputs, code: list[str]) -> str:
    """Hash of all that decides a run's result; names its checkpoints, so that changed code or data starts anew and a
    killed or repeated run goes on. Of a cache that must be whole it holds the rows as well: labelled anew on other
    hardware they may differ in their last bits under the same identity. Raises IntegrityError for a damaged record."""
    cache = inputs.cache
    rows = cache.records_hash(config.period or cache.views) if cache and chosen.supervise == "cached" else None
    local = Path(chosen.initial) if chosen.initial else None
    return digest(
        {
            "train": config.model_dump(mode="json"),
            "student": chosen.model_dump(mode="json", exclude={"waits_for"}),
            "initial": sha256_file(local) if local is not None and local.is_file() else None,
            "recipe": inputs.recipe.model_dump(mode="json"),
            "shards": [inputs.train.manifest_hash, inputs.val.manifest_hash],
            "views": inputs.views,
            "cache": [cache.hash, rows] if cache else None,
            "teacher": [inputs.live.teacher.identity(), inputs.live.codec] if inputs.live else None,
            "code": loop.code_hashes(code),
        }
    )


def make_schedule(config: TrainConfig, shards: Shards, supervise: Supervise, coverage: int) -> Schedule:
    """The schedule with its period K decided. Raises UsageError for a batch or a period that does not fit."""
    sizes = tuple(block.samples for block in shards.blocks)
    draft = Schedule(config.seed, sizes, config.repeats, config.repeats, config.lanes, config.window, config.batch)
    cycles = draft.cycles(draft.steps(config.epochs))
    views = period(supervise, config.period, coverage, cycles, config.repeats)
    return replace(draft, period=views)


def train_student(
    name: str,
    config: TrainConfig,
    chosen: StudentConfig,
    inputs: Inputs,
    directory: Path,
    workers: int,
    observe: Callable[[int, float], None] | None = None,
) -> loop.Trained:
    """Trains student ``name``; ``directory`` holds its checkpoints.

    Raises UsageError when targets are missing (what and how many), IntegrityError at the first view whose pixels are
    not the teacher's, RetryError when told to stop.
    """
    device = pick_device()
    shards, recipe = inputs.train, inputs.recipe
    if inputs.cache is not None:
        check_repeats(config.repeats, inputs.cache.layout.group)
    schedule = make_schedule(config, shards, chosen.supervise, inputs.views)
    lanes = lanes_of(rank(), world_size(), config.lanes)
    verify = 1.0 if config.verify_views == "all" else config.verify_views
    lookup, label = sources(chosen.supervise, schedule.period, verify, shards, inputs.cache, inputs.live)
    say(
        f"{name}: {schedule.steps(config.epochs)} steps of {config.batch}, K = {schedule.period} views, r = {config.repeats}, "
        f"on {device_name()}"
    )
    say(memory_needed(schedule, lanes, recipe.size, workers))
    torch.manual_seed(config.seed)
    model = create_student(chosen, len(shards.classes), recipe.size)
    if chosen.initial is not None:
        load_initial(model, initial_state(chosen))
    model.to(device)
    classes = len(shards.classes)

    def compute(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        target = smoothed_mixed_target(batch.labels, batch.partner_labels, batch.lam, classes, config.smoothing)
        loss = distillation_loss(
            model(batch.images),
            target,
            batch.hard,
            batch.logits,
            kind=chosen.distillation,
            alpha=chosen.alpha,
            tau=chosen.tau,
            reduction=chosen.soft_reduction,
        )
        return {"loss": loss.total, "task": loss.task.detach(), "distill": loss.distill.detach()}

    def score(model: nn.Module) -> loop.Row:
        model.eval()
        found = top1(lambda images: model(images).fused(), validation(inputs.val, recipe, device, workers), device)
        return {"val_top1": found}

    def load(start: int, stop: int) -> Iterator[Batch]:
        return batches(schedule, lanes, start, stop, shards, recipe, device, workers, lookup, label)

    with loop.exclusive(directory):
        return loop.run(name, model, compute, config, schedule, load, directory, device, score, observe)


def write_student(
    trained: loop.Trained, chosen: StudentConfig, classes: tuple[str, ...], recipe: Recipe, out: Path
) -> None:
    """``model.safetensors`` + ``config.json`` (timm), ``ema/`` the same for the average, ``log.csv``."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(trained.rows[-1]), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(trained.rows)
    with whole_directory(out, MARKS) as fresh:
        write_durably(fresh / "log.csv", text.getvalue().encode())
        if trained.average is not None:
            average = create_student(chosen, len(classes))
            average.load_state_dict(trained.average)
            export_student(average, chosen, classes, recipe, fresh / "ema")
        assert isinstance(trained.model, Student)
        export_student(trained.model, chosen, classes, recipe, fresh)
