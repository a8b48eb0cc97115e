"""Before a long run: how much it is, how long it takes on this machine, and when the cache pays."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from pipeline.base.timm_models import autocast_type
from pipeline.cache.layout import Layout, layout_of
from pipeline.data.shards import Shards
from pipeline.evaluation.inside import gflops
from pipeline.planning.codecs import bytes_of, codec_costs, codec_lines, temperatures
from pipeline.planning.pieces import Pieces
from pipeline.planning.speed import Speed, hours
from pipeline.planning.total import described, total
from pipeline.runtime import units
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import median_seconds, round_seconds, world_size
from pipeline.runtime.work import Work
from pipeline.student.config import StudentConfig
from pipeline.student.model import create_student
from pipeline.student.train import make_compute, make_schedule
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.label import label_visit
from pipeline.teacher.model import Teacher, computing, create_teacher
from pipeline.teacher.precompute import views_per_visit
from pipeline.training.batches import Batch, Loader, seconds_per_row
from pipeline.training.config import FitConfig, TrainConfig
from pipeline.training.optimizer import make_optimizer
from pipeline.training.schedule import lanes_of
from pipeline.views.draw import compile_kernels
from pipeline.views.drawn import DrawnVisit, draw_visit, pack_visit
from pipeline.views.places import drawer
from pipeline.views.recipe import Recipe

ENOUGH = 1 << 60  # bytes: memory that a run would like to have, whatever this machine has


def plan(work: Work, pieces: Pieces, name: str | None, workers: int, probe: int = 64) -> dict[str, Any]:
    """Parts, files, bytes, forward passes, hours and break-even of the cache ``name`` (None: the first one) and of the
    students that learn from its recipe, as plain JSON data. Raises UsageError where there is no such cache.

    Times are measured on this machine with ``probe`` samples and new models of the configured kind, not compiled: drawing
    per core (packing where a GPU draws; its drawing is added to the step's time and the teacher's), bringing a drawn view
    into a batch, the teacher's forward pass on a block, and each student's training step with its optimiser in the configured
    precision, without the weights' average. What codecs lose is measured on the teacher's own answers, where ``work`` has its
    weights.
    """
    if not pieces.caches or name not in (None, *pieces.caches):
        there = ", ".join(pieces.caches) or "none"
        raise UsageError(f"--cache: expected the name of a cache in params.yaml ({there}), found {name}")
    name = name or next(iter(pieces.caches))
    shards, cache = Shards.open(work.split("train")), pieces.caches[name]
    config = pieces.teachers[cache.teacher]
    recipe = pieces.recipes[cache.recipe]
    device, layout = pick_device(), layout_of(shards, cache)
    views = shards.samples * cache.views
    # Drawing, and the teacher's forward pass at the constant shape of a block.
    starting = time.process_time()
    drawing, drawn_there, drawn = _draw(shards, recipe, views_per_visit(cache.group), probe)
    drawn_at = drawing / max(1, workers)
    weights, logits = work.teacher_weights(cache.teacher), None
    if weights.is_file():
        teacher = Teacher.load(config, weights, layout.classes, recipe, layout.block, device)
        logits = label_visit(teacher, recipe, drawn).flatten(0, 1).numpy()
    images, forward, model = _teacher_probe(config, layout, recipe, device)
    rounds = [round_seconds(forward, device)]
    teaching = statistics.median(rounds[0]) / len(images)
    # Each student's step; its hours with the targets from the cache and from the live teacher.
    students, memory, scoring, held = dict[str, dict[str, Any]](), "", 0.0, Shards.open(work.split("val")).samples
    for student, chosen in pieces.students.items():
        if chosen.recipe == cache.recipe:
            training = pieces.trainings[chosen.training]
            schedule = make_schedule(training, shards, cache.views, recipe.shared_pairing)
            rows = schedule.steps(training.epochs) * training.batch
            main = seconds_per_row(drawn, training.batch // world_size(), recipe, device)
            steps, flops = _student(chosen, layout.classes, recipe, training, images)
            rounds.append(steps)
            step = statistics.median(steps)
            cached = Speed(drawing, workers, main, step + drawn_there, device)
            live = cached if chosen.supervision == "none" else replace(cached, step=step + teaching)
            entry = {"supervision": chosen.supervision, "gflops_per_row": flops, **hours(cached, live, rows)}
            students[student] = entry | {"hours_teacher_live": rows * teaching / 3600}
            scoring += (training.epochs // training.score_epochs + 1) * held * (drawn_at + step / 3) / 3600
            lanes = lanes_of(0, world_size(), training.lanes)
            memory = memory or str(Loader(schedule, lanes, shards, recipe, device, workers).ring(ENOUGH))
    cache_hours = views * max(drawn_at, teaching + drawn_there) / 3600
    parts = layout.groups(cache.views) * layout.shards
    # The steps of the teacher's fit.
    fitting = 0.0
    if config.fitted_here:
        fit = FitConfig.model_validate(config.fit or {})
        rounds.append(_fit(config, fit, layout.classes, images))
        step = statistics.median(rounds[-1]) + drawn_there
        fitting = fit.epochs * shards.samples * Speed(drawing, workers, 0.0, step, device).seconds / 3600
    # All stages together; each is a process that starts as this one did.
    count = 6 + 2 * len(students)  # index, shard, teacher, precompute, answers, report; training and scores
    every = {
        "fitting": fitting,
        "labels": cache_hours,
        "trainings": sum(
            of[f"hours_{'live' if of['supervision'] == 'live' else 'cached'}"] for of in students.values()
        ),
        "scores": scoring + held * (teaching + drawn_at) / 3600,
        "starting": count * starting / 3600,
    }
    return {
        "device": str(device),
        "cache": {
            "parts": parts,
            "shards": layout.shards,
            "files": parts * (1 + len(layout.arrays)),
            "codec": cache.codec,
            "bytes_estimated": bytes_of(cache.codec, layout.classes, views),
            "codecs": codec_costs(layout, views, logits, temperatures(pieces, name)),
            "teacher_forward_passes": views,
            "hours": cache_hours,
            "bound_by": "drawing" if drawn_at > teaching + drawn_there else "teacher",
        },
        "teacher": {
            "fitted_here": config.fitted_here,
            "milliseconds_per_view": 1e3 * teaching,
            "gflops_per_view": gflops(lambda: model(images[:1])),
        },
        "drawing_milliseconds_per_view_and_core": 1e3 * drawing,
        "drawing_milliseconds_per_view_on_device": 1e3 * drawn_there,
        "memory": memory,
        "students": students,
        "hours": total(every, count, rounds).as_json(),
        "other_views": [name for name in pieces.students if name not in students],
        "break_even_students": _break_even(cache_hours, students),
    }


def describe_cost(found: Mapping[str, Any]) -> str:
    """What ``plan`` found, for a person."""
    cache, teacher, least = found["cache"], found["teacher"], found["break_even_students"]
    size, on_device = units.size(cache["bytes_estimated"]), found["drawing_milliseconds_per_view_on_device"]
    there = f" to decode and pack, {on_device:.3g} ms on {found['device']} to draw" if on_device else ""
    lines = [
        f"cache: {cache['parts']} parts, {cache['files']} files, about {size}, {cache['teacher_forward_passes']:,} views",
        f"       {units.duration(3600 * cache['hours'])} on this {found['device']}, bound by {cache['bound_by']}",
        f"teacher: {teacher['milliseconds_per_view']:.3g} ms and {teacher['gflops_per_view']:.3g} GFLOP per view",
        f"drawing: {found['drawing_milliseconds_per_view_and_core']:.3g} ms per view and core{there}; {found['memory']}",
    ]
    lines += codec_lines(cache["codecs"], cache["codec"])
    for name, entry in found["students"].items():
        for way, how in (("cached", "from the cache"), ("live", "with the live teacher")):
            limit = f"limited by the {entry[f'limit_{way}']}; {entry[f'cores_{way}']} core(s) would draw as fast"
            lines.append(f"{name}: {units.duration(3600 * entry[f'hours_{way}'])} {how}, {limit}")
        step, main = entry["milliseconds_per_row"], entry["milliseconds_main"]
        lines.append(f"{name}: a row takes {step:.3g} ms in the step and {main:.3g} ms in the main process")
    lines.append("the cache never pays here" if least is None else f"the cache pays from {least} student(s) on")
    lines.append(described(found["hours"], found["other_views"]))
    lines += _later(cache["hours"], cache["shards"], teacher["fitted_here"])
    return "\n".join(lines)


def _later(hours: float, shards: int, fitted_here: bool) -> list[str]:
    """What later changes cost, which a person wants to know before the first run."""
    anew = f"everything anew ({units.duration(3600 * hours)})"
    fixed = f"later: the teacher is fixed: it stays as it is when images are added; another one labels {anew}"
    fitted = (
        f"later: the teacher is fitted here: an added image or a changed fit makes another teacher, and so labels {anew}; "
        f"to keep this one, compose params.yaml with freeze=NAME"
    )
    return [
        "later: more views cost only the new ones, and more students nothing here",
        f"later: images added to a folder label themselves and one shard more, one that is changed or removed its shard "
        f"({units.duration(3600 * hours / shards)}); those of a source of tars label {anew}",
        fitted if fitted_here else fixed,
    ]


def _teacher_probe(
    config: TeacherConfig, layout: Layout, recipe: Recipe, device: torch.device
) -> tuple[torch.Tensor, Callable[[], object], Any]:
    """Images of one block, the teacher's forward pass on them, and the freshly initialised model."""
    model: Any = create_teacher(config, layout.classes, pretrained=False)
    model.to(device).eval().requires_grad_(False)
    order = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(memory_format=order)
    images = torch.zeros(layout.block, 3, recipe.size, recipe.size, device=device).contiguous(memory_format=order)

    def forward() -> object:
        with torch.inference_mode(), computing(config.precision, device):
            return model(images)

    return images, forward, model


def _break_even(cache_hours: float, found: dict[str, dict[str, Any]]) -> int | None:
    """The smallest number of students of this average cost for which one cache costs less than the live teacher."""
    costs = [entry["hours_live"] - entry["hours_cached"] for entry in found.values() if entry["supervision"] != "none"]
    saved = statistics.fmean(costs) if costs else 0.0
    return None if saved <= 0 else int(cache_hours / saved) + 1


def _student(
    chosen: StudentConfig, classes: int, recipe: Recipe, train: TrainConfig, images: torch.Tensor
) -> tuple[list[float], float]:
    """Seconds of a training step in each round and its GFLOP, per row."""
    device, images = images.device, images[: max(2, train.batch // world_size())]
    model = create_student(chosen, classes, recipe.size).to(device)
    labels, logits = torch.zeros(len(images), dtype=torch.int64, device=device), images.new_zeros(len(images), classes)
    batch = Batch(images, labels, labels, torch.ones(len(images), device=device), labels, logits, live=0)
    optimizer, compute = make_optimizer(model, train.optimizer, train.batch), make_compute(train, chosen, classes)
    taken = _steps(lambda: compute(model, batch)["loss"], optimizer, train.precision, images)
    return taken, 3 * gflops(lambda: model(images[:1]))  # a backward pass is two forward passes


def _fit(config: TeacherConfig, fit: FitConfig, classes: int, images: torch.Tensor) -> list[float]:
    """Seconds of a step of the teacher's fit in each round, per row."""
    images = images[: max(2, fit.batch // world_size())]
    model: Any = create_teacher(config, classes, pretrained=False)
    model.to(images.device).train()
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    optimizer = make_optimizer(model, fit.optimizer, fit.batch)
    return _steps(lambda: torch.nn.functional.cross_entropy(model(images), labels), optimizer, fit.precision, images)


def _steps(
    loss: Callable[[], torch.Tensor], optimizer: Any, precision: Literal["fp32", "bf16", "fp16"], images: torch.Tensor
) -> list[float]:
    """Seconds of a training step on ``images`` in each round, per row."""
    device, dtype = images.device, autocast_type(precision)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            found = loss()
        found.backward()
        optimizer.step()

    return [seconds / len(images) for seconds in round_seconds(step, device)]


def _draw(shards: Shards, recipe: Recipe, repeats: int, probe: int) -> tuple[float, float, DrawnVisit]:
    """Seconds per view of one core and of the device (0 where it does not draw), each image decoded once for ``repeats``
    views as the stage does, and the views."""
    block = max(shards.blocks, key=lambda block: block.samples)
    few = replace(block, samples=min(probe, block.samples))
    views, made = few.samples * repeats, drawer(recipe)
    compile_kernels()
    start = time.process_time()
    drawn = draw_visit(shards, recipe, few, 0, repeats)
    drawing = (time.process_time() - start) / views
    if made is None:
        return drawing, 0.0, drawn
    memory = np.empty(made.room(shards, repeats), np.uint8)
    start = time.process_time()
    _, packed = pack_visit(shards, recipe, few, 0, repeats, memory)
    packing = (time.process_time() - start) / views
    sent, out = torch.from_numpy(memory).to(made.device), drawn.pixels.to(made.device)
    there = median_seconds(lambda: made.draw(sent, packed, out), made.device) / views
    return packing, there, replace(drawn, pixels=out)
