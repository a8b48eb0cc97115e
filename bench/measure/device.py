"""What drawing on a GPU costs, and how well it feeds a training; ``bench/gpu.sh`` runs all of it.

\b
    python -m bench.measure.device draw                         microseconds per view: recipe, each op, shapes of blocks
    python -m bench.measure.device loader --workers 1,2,4       views per second of workers that draw, and that only pack
    python -m bench.measure.device fed --workers 2,4 --sizes Ti,S,B        share of a training's speed on one batch
    python -m bench.measure.device label --arch regnety_160     labelling, each visit waited for, over asking one ahead

DeiT's recipe at 224 px, r = 3, JPEGs of 500 x 375 px; --resize 256 packs them with a shorter side of so many pixels. Times are of
the clock. Goals: 10 us per view; 2.0 times the views per second, 4 with --resize 256; with 4 workers 0.95 for S and B, 0.9 for
Ti. Without a GPU, DISTIL_ENGINE=cuda-on-cpu shows that it runs, and its figures mean nothing.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path

import click
import torch

from bench.measure.train_step import SHAPES, live_teacher
from bench.photo_shards import jpegs, photo_shards
from bench.timing import head, interleaved, machine, medians, row, timed
from pipeline.data.images import prepare
from pipeline.data.shards import Shards
from pipeline.runtime.config import validate
from pipeline.runtime.machine import device as pick_device
from pipeline.student.model import create_student
from pipeline.student.train import make_compute, make_schedule
from pipeline.teacher.label import label_visit, label_visits
from pipeline.training.batches import Batch, Loader
from pipeline.training.config import TrainConfig
from pipeline.training.step import Stepper
from pipeline.views import device, draw
from pipeline.views.choose import View, Visit, choose
from pipeline.views.drawn import DrawnVisit
from pipeline.views.policies import EVERY_OP, arguments
from pipeline.views.recipe import Mix, Recipe
from pipeline.views.workers import read_visits
from tests.support.world import make_world, student

CPU = torch.device("cpu")
REPEATS = 3


def clock(call: Callable[[], object]) -> float:
    """Seconds until the device has done what ``call`` asked of it."""

    def whole() -> None:
        call()
        if pick_device().type == "cuda":
            torch.cuda.synchronize()

    return timed(whole)[1]


def per_view(call: Callable[[], object], views: int, rounds: int) -> float:
    """Microseconds of the clock per view: a median."""
    clock(call)
    return 1e6 * statistics.median(clock(call) for _ in range(rounds)) / views


def drawing(recipe: Recipe, files: list[bytes], rounds: int) -> None:
    images = [draw.decode(data, "picture") for data in files]
    chosen = [choose(recipe, str(i), 0, *image.shape[:2]) for i, image in enumerate(images)]

    where = pick_device() if pick_device().type == "cuda" else CPU
    made = device.Drawer(recipe, where)
    per_multiprocessor = made.blocks // 4

    def cost(views: list[View]) -> float:
        sent, what, out = device.sent(made, [(image, [view]) for image, view in zip(images, views, strict=True)])
        return per_view(lambda: made.draw(sent, what, out), len(views), rounds)

    print(head("drawn", "us per view"))
    for blocks, threads in ((2, 256), (8, 128), (4, 256)):  # the last is what the product takes
        made.blocks, made.threads = max(1, blocks * per_multiprocessor), threads
        print(row(f"whole recipe, {blocks} blocks of {threads}", f"{cost(chosen):.2f}"), flush=True)
    print(row("resize alone", f"{cost([view._replace(ops=()) for view in chosen]):.2f}"))
    for name in EVERY_OP:
        if name != "GaussianBlur":
            op = (name, arguments(name, 7.3, 1.0))
            print(row(name, f"{cost([view._replace(ops=(op,)) for view in chosen]):.2f}"), flush=True)
    pixels = torch.zeros((REPEATS, 256, 3, recipe.size, recipe.size), dtype=torch.uint8, device=where)
    print(row("digests", f"{per_view(lambda: made.digests(pixels), REPEATS * 256, rounds):.2f}"))


def loading(shards: Shards, recipe: Recipe, engines: list[str], workers: list[int]) -> None:
    visits = [Visit(block.index, 0, REPEATS, 0) for block in shards.blocks] * 3
    print(head("workers", *engines, "ratio"))
    for number in workers:
        found = []
        for engine in engines:
            os.environ["DISTIL_ENGINE"] = engine
            stream = read_visits(shards, recipe, visits, REPEATS, number)
            next(stream)
            start = time.perf_counter()
            views = sum(drawn.pixels.shape[0] * drawn.pixels.shape[1] for drawn in stream)
            found.append(views / (time.perf_counter() - start))
        print(row(str(number), *(f"{value:.0f}" for value in found), f"{found[-1] / found[0]:.2f}"), flush=True)


def feeding(
    shards: Shards, recipe: Recipe, ways: list[tuple[str, int]], size: str, batch: int, steps: int, compiled: bool
) -> None:
    """``ways``: engines with numbers of workers."""
    shape = {"img_size": recipe.size, "patch_size": 16, "depth": 12, **SHAPES[size]}
    chosen = student("none", "none", token=False, arch_args=shape)
    fields = {"batch": batch, "lanes": 1, "window": 2, "precision": "bf16", "compile": compiled, "epochs": 1000.0}
    config = validate(TrainConfig, fields, "training")
    stepper = Stepper(create_student(chosen, 10, recipe.size).to(pick_device()).train(), config, pick_device())
    compute, schedule = make_compute(config, chosen, 10), make_schedule(config, shards, REPEATS, 1)
    for engine, number in ways:
        os.environ["DISTIL_ENGINE"] = engine
        stream = Loader(schedule, range(1), shards, recipe, pick_device(), number).batches(0, 2 * steps + 1)
        one = next(stream)

        def run(batches: Iterator[Batch]) -> float:
            return batch * steps / clock(lambda: [stepper(compute, of) for of in islice(batches, steps)])

        run(stream)  # what was drawn ahead
        fed, alone = run(stream), run(repeat(one))
        stream.close()
        print(row(f"DeiT-{size}", engine, str(number), f"{alone:.0f}", f"{fed:.0f}", f"{fed / alone:.2f}"), flush=True)


def labelling(arch: str, samples: int, size: int, workers: int) -> None:
    """Views per second of a teacher whose answers on a visit are waited for before the next is asked, and as precompute asks."""
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), samples, block=min(128, samples // 4), size=size)
        teacher = live_teacher(Path(folder), world, arch, "bf16" if pick_device().type == "cuda" else "fp32")[0].teacher
        visits = [Visit(block.index, 0, REPEATS, 0) for block in world.shards.blocks]

        def rate(answer: Callable[[Iterator[DrawnVisit]], Iterator[object]]) -> float:
            stream = read_visits(world.shards, world.recipe, visits, REPEATS, workers)
            label_visit(teacher, world.recipe, next(stream))
            return (
                REPEATS * samples / timed(lambda: sum(1 for _ in answer(stream)))[1] * (len(visits) - 1) / len(visits)
            )

        ways = {
            "waited for": lambda: rate(lambda stream: (label_visit(teacher, world.recipe, drawn) for drawn in stream)),
            "asked ahead": lambda: rate(lambda stream: label_visits(teacher, world.recipe, stream)),
        }
        alone, ahead = medians(interleaved(ways, 3, warm=1)).values()
    print(head("teacher", "waited for", "asked ahead", "ratio"))
    print(row(arch, f"{alone:.0f}", f"{ahead:.0f}", f"{ahead / alone:.3f}"))


@click.command(help=__doc__)
@click.argument("part", type=click.Choice(["draw", "loader", "fed", "label"]))
@click.option("--engines", default="kernels,cuda", show_default=True)
@click.option("--workers", default="1,2,4", show_default=True)
@click.option("--sizes", default="Ti,S,B", show_default=True, help="Of the students.")
@click.option("--samples", default=2048, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--steps", default=30, show_default=True)
@click.option("--resize", type=int, help="Pixels of the shorter side that images are packed with.")
@click.option("--size", default=224, show_default=True, help="Pixels of a view.")
@click.option("--compiled", is_flag=True, help="The student's step.")
@click.option("--arch", default="regnety_160", show_default=True, help="Of the teacher, for label.")
def main(
    part: str,
    engines: str,
    workers: str,
    sizes: str,
    samples: int,
    batch: int,
    steps: int,
    resize: int | None,
    size: int,
    compiled: bool,
    arch: str,
) -> None:
    files, recipe = jpegs(min(64, samples)), Recipe(seed=0, size=size, mix=Mix(mixup=0.8, cutmix=1.0))
    files = [prepare(data, "picture", shorter=resize).data for data in files]
    print(machine())
    some, numbers = engines.split(","), [int(number) for number in workers.split(",")]
    if part == "draw":
        drawing(recipe, files * max(1, min(samples, 768) // len(files)), 5)
    elif part == "label":
        labelling(arch, min(samples, 1437), size, numbers[-1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            shards = photo_shards(Path(folder) / "shards", files, samples, min(256, samples // 4))
            if part == "loader":
                loading(shards, recipe, some, numbers)
                return
            print(head("student", "engine", "workers", "images/s on one batch", "images/s fed", "share"))
            for student_size in sizes.split(","):
                ways = [(engine, number) for number in numbers for engine in some]
                feeding(shards, recipe, ways, student_size, batch, steps, compiled)


if __name__ == "__main__":
    main()
