"""Before a long run: how much it is, how long it takes on this machine, and when the cache pays."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.cache.codec import bytes_per_view, codecs_for, hard_labels, pack, unpack
from pipeline.cache.layout import CacheConfig, Layout, layout_of
from pipeline.cache.records import row_digest
from pipeline.data.shards import Shards
from pipeline.evaluation.size import gflops
from pipeline.planning.pieces import Pieces
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.machine import world_size
from pipeline.student.config import StudentConfig
from pipeline.student.losses import distillation_loss
from pipeline.student.model import create as create_student
from pipeline.student.train import make_schedule
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import computing
from pipeline.teacher.model import create as create_teacher
from pipeline.teacher.precompute import views_per_visit
from pipeline.training.batches import memory_needed
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import make_optimizer
from pipeline.training.schedule import lanes_of
from pipeline.views.draw import prepare
from pipeline.views.drawn import draw_visit
from pipeline.views.recipe import Recipe

HARD_BYTES = 1.3  # per view and sample: two bytes before zstd; labels that agree between views take 0.8 to 1.3


def plan(shards: Shards, pieces: Pieces, name: str | None, workers: int, probe: int = 64) -> dict[str, Any]:
    """Parts, files, bytes, forward passes, hours and break-even of the cache ``name`` (None: the first one) and of the
    students that learn from its recipe, as plain JSON data. Raises UsageError where there is no such cache.

    Times come from a probe of ``probe`` samples with freshly initialised models of the configured kind on this machine:
    drawing per worker, the teacher's forward pass on a block, each student's training step with its optimiser, in the
    configured precision, not compiled. The weights' average is left out.
    """
    cache, config = _chosen(pieces, name)
    recipe = pieces.recipes[cache.recipe]
    device, layout = pick_device(), layout_of(shards, cache)
    views = shards.samples * cache.views
    # Drawing, and the teacher's forward pass at the constant shape of a block.
    drawing = _seconds_per_view_drawn(shards, recipe, views_per_visit(cache.group), probe)
    drawn_at = drawing / max(1, workers)
    images, forward, model = _teacher_probe(config, layout, recipe, device)
    teaching = _median_seconds(forward, device) / len(images)
    # Each student's step; its hours with the targets from the cache and from the live teacher.
    students: dict[str, dict[str, Any]] = {}
    memory: list[str] = []
    for student, chosen in pieces.students.items():
        if chosen.recipe == cache.recipe:
            training = pieces.trainings[chosen.training]
            schedule = make_schedule(training, shards, cache.views, recipe.shared_pairing)
            rows = schedule.steps(training.epochs) * training.batch
            students[student] = _student(chosen, layout.classes, recipe, training, images, rows, drawn_at, teaching)
            students[student]["hours_teacher_live"] = rows * teaching / 3600
            memory.append(memory_needed(schedule, lanes_of(0, world_size(), training.lanes), recipe.size, workers))
    cache_hours = views * max(drawn_at, teaching) / 3600
    parts = layout.groups(cache.views) * layout.shards
    return {
        "device": str(device),
        "cache": {
            "parts": parts,
            "files": parts * (1 + len(layout.arrays)),
            "codec": cache.codec,
            "bytes_estimated": _bytes(cache.codec, layout.classes, views),
            "codecs": codec_costs(cache.codec, layout.classes, layout.block, views),
            "teacher_forward_passes": views,
            "hours": cache_hours,
            "bound_by": "drawing" if drawn_at > teaching else "teacher",
        },
        "teacher": {
            "milliseconds_per_view": 1e3 * teaching,
            "gflops_per_view": gflops(lambda: model(images[:1])),
        },
        "drawing_milliseconds_per_view_and_core": 1e3 * drawing,
        "memory": memory[0] if memory else "",
        "students": students,
        "break_even_students": _break_even(cache_hours, students),
    }


def describe(found: Mapping[str, Any]) -> str:
    """What ``plan`` found, for a person."""
    cache, teacher, least = found["cache"], found["teacher"], found["break_even_students"]
    size = f"{cache['bytes_estimated'] / 1e9:.3g} GB"
    lines = [
        f"cache: {cache['parts']} parts, {cache['files']} files, about {size}, {cache['teacher_forward_passes']:,} views",
        f"       {cache['hours']:.3g} h on this {found['device']}, bound by {cache['bound_by']}",
        f"teacher: {teacher['milliseconds_per_view']:.3g} ms and {teacher['gflops_per_view']:.3g} GFLOP per view",
        f"drawing: {found['drawing_milliseconds_per_view_and_core']:.3g} ms per view and core; {found['memory']}",
    ]
    lines += codec_lines(cache["codecs"], cache["codec"])
    for name, entry in found["students"].items():
        lines.append(
            f"{name}: {entry['hours_cached']:.3g} h from the cache, {entry['hours_live']:.3g} h with the live teacher"
        )
    lines.append("the cache never pays here" if least is None else f"the cache pays from {least} student(s) on")
    return "\n".join(lines)


def codec_lines(costs: Mapping[str, Mapping[str, float]], chosen: str) -> list[str]:
    """The table of ``codec_costs``, a line for each codec."""
    return [
        f"codec {codec:6} {found['bytes'] / 1e9:9.3g} GB, {found['hours']:7.2g} h of a core to write"
        + ("  <- this cache" if codec == chosen else "")
        for codec, found in costs.items()
    ]


def _bytes(codec: str, classes: int, views: int) -> int:
    return int(views * (HARD_BYTES + bytes_per_view(codec, classes)))


def codec_costs(chosen: str, classes: int, block: int, views: int) -> dict[str, dict[str, float]]:
    """What each codec that goes with C classes would cost for this many views of samples: bytes, and hours of one core to
    pack, unpack and digest the rows before the disk."""
    logits = 5 * np.sin(np.arange(block * classes, dtype=np.float32)).reshape(1, block, classes)

    def write(codec: str) -> Callable[[], object]:
        def call() -> object:
            stored, hard = pack(codec, logits), hard_labels(logits)
            rows = None if stored is None else unpack(codec, stored, classes)[0]
            return row_digest("", (0, 0), 0, 0, hard[0], rows)

        return call

    return {
        codec: {
            "bytes": _bytes(codec, classes, views),
            "hours": views * _median_seconds(write(codec), torch.device("cpu")) / block / 3600,
        }
        for codec in dict.fromkeys([*codecs_for(classes), chosen])
    }


def _chosen(pieces: Pieces, name: str | None) -> tuple[CacheConfig, TeacherConfig]:
    if not pieces.caches or name not in (None, *pieces.caches):
        there = ", ".join(pieces.caches) or "none"
        raise UsageError(f"--cache: expected the name of a cache in params.yaml ({there}), found {name}")
    cache = pieces.caches[name or next(iter(pieces.caches))]
    return cache, pieces.teachers[cache.teacher]


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
    chosen: StudentConfig, classes: int, recipe: Recipe, train: TrainConfig, images: torch.Tensor, rows: int,
    drawing: float, teaching: float,
) -> dict[str, Any]:  # fmt: skip
    """Seconds of a training step and hours of the whole training, cached and live; drawing overlaps with the step."""
    device, images = images.device, images[: max(2, train.batch // world_size())]
    model = create_student(chosen, classes, recipe.size).to(device)
    target = torch.full((len(images), classes), 1.0 / classes, device=device)
    optimizer = make_optimizer(model, train.optimizer, train.batch)

    def step() -> object:
        dtype = torch.float16 if train.precision == "fp16" else torch.bfloat16
        with torch.autocast(device.type, dtype, enabled=train.precision != "fp32"):
            loss = distillation_loss(model(images), target, target.argmax(1), target, kind=chosen.distillation)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    per_row = _median_seconds(step, device) / len(images)
    hours = {"hours_cached": rows * max(per_row, drawing) / 3600}
    asked = 0.0 if chosen.supervision == "none" else teaching
    hours["hours_live"] = rows * max(per_row + asked, drawing) / 3600
    flops = 3 * gflops(lambda: model(images[:1]))  # a backward pass is two forward passes
    return {"supervision": chosen.supervision, "milliseconds_per_row": 1e3 * per_row, "gflops_per_row": flops, **hours}


def _seconds_per_view_drawn(shards: Shards, recipe: Recipe, repeats: int, probe: int) -> float:
    """CPU seconds per view of one core, each image decoded once for ``repeats`` views as the stage does."""
    block = max(shards.blocks, key=lambda block: block.samples)
    few = replace(block, samples=min(probe, block.samples))
    prepare()
    start = time.process_time()
    draw_visit(shards, recipe, few, 0, repeats)
    return (time.process_time() - start) / (few.samples * repeats)


def _median_seconds(call: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first call warms up
