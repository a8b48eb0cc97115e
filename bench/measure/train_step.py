"""What distillation costs a step of training: from a cache next to nothing, with the live teacher its forward pass.

\b
    python -m bench.measure.train_step       50 interleaved pairs of steps of DeiT-Ti and S at 96 px, B = 32, on one thread
    python -m bench.measure.train_step --size 224 --batch 128 --block 128 --teachers regnety_160 --precision bf16 --pairs 20
                                             on a GPU; every pair takes --batch rows of 3 views of the 1,437 digits

First table: a step from the cache over the same step undistilled, both with the real batches and the real step of one model;
the goal is at most 1.02. Second table: a step with the live teacher over a step from the cache, beside what the FLOPs of both
models predict; the goal is at least 0.9 of the prediction. The teacher labels --block views at once. --precision is the student's
and the teacher's.
Times are of the CPU where there is no GPU, and of the clock on a GPU. Drawing, which loader workers do, is in none of them.
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.timing import head, interleaved, machine, ratio, row, seconds
from pipeline.cache.reader import open_cache
from pipeline.runtime.config import validate
from pipeline.runtime.machine import device
from pipeline.student.config import StudentConfig, Supervision
from pipeline.student.model import create_student
from pipeline.student.supervision import FromTeacher, sources
from pipeline.student.train import make_compute, make_schedule
from pipeline.teacher import fit
from pipeline.teacher.config import NamedTeacher, TeacherConfig
from pipeline.teacher.model import Teacher, create_teacher
from pipeline.training.batches import Loader
from pipeline.training.step import Stepper
from pipeline.views.drawn import DrawnVisit, draw_visit
from tests.support.world import World, make_world, student, training

VIEWS = 3
DIGITS = 1437
SHAPES = {
    "Ti": {"embed_dim": 192, "num_heads": 3},
    "S": {"embed_dim": 384, "num_heads": 6},
    "B": {"embed_dim": 768, "num_heads": 12},
}


class Way:
    """One way to train the same model: its batches, all drawn by the first step, and its steps."""

    def __init__(self, world: World, chosen: StudentConfig, batch: int, precision: str) -> None:
        # one window of one lane holds all visits
        fields = {"batch": batch, "lanes": 1, "window": len(world.shards.blocks), "precision": precision}
        config = training(world, 1, epochs=float(VIEWS), **fields)
        cache = open_cache(world.label("f16", VIEWS).path)
        supervision: Supervision = "none" if chosen.distillation == "none" else "cached"
        targets = sources(supervision, VIEWS, 1.0, world.shards, cache, None)
        schedule = make_schedule(config, world.shards, VIEWS, world.recipe.shared_pairing)
        steps = schedule.pairs_per_cycle // (batch // 2)
        loader = Loader(schedule, range(1), world.shards, world.recipe, device(), 0, *targets)
        self.batches = loader.batches(0, steps)
        torch.manual_seed(0)
        model = create_student(chosen, 10, world.recipe.size).to(device()).train()
        self.step = Stepper(model, config, device())
        self.compute = make_compute(config, chosen, 10)
        self.batch = next(self.batches)  # the window is drawn here
        self.take()

    def take(self) -> None:
        """A whole step: the batch gathered and finished, forward, backward, update."""
        self.step(self.compute, next(self.batches))


def cached_over_undistilled(
    world: World, size: str, kind: str, token: bool, pairs: int, batch: int, precision: str
) -> tuple[float, Way]:
    arguments = {"img_size": world.recipe.size, "patch_size": 16, "depth": 12, **SHAPES[size]}
    ways = {
        name: Way(world, student(name, how, token=token, arch_args=arguments, tau=3.0), batch, precision)
        for name, how in (("none", "none"), ("cached", kind))
    }
    found = interleaved({name: partial(seconds, way.take) for name, way in ways.items()}, pairs)
    return ratio(found["cached"], found["none"]), ways["cached"]


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def live_teacher(root: Path, world: World, arch: str, precision: str) -> tuple[FromTeacher, int]:
    """A teacher of new weights, which compute as trained ones do, and its FLOPs per view."""
    config = validate(TeacherConfig, {"recipe": "r", "fit": {}, "arch": arch, "precision": precision}, "teacher")
    model = create_teacher(config, 10, pretrained=False)
    fitted = fit.Fitted(model, world.shards.classes, "fitted", None)
    fit.write_teacher(fitted, NamedTeacher(arch, config, world.recipe), root / arch)
    weights = root / arch / "model.safetensors"
    teacher = Teacher.load(config, weights, 10, world.recipe, world.shards.block_size, device())
    one = torch.zeros(1, 3, world.recipe.size, world.recipe.size, device=device())
    return FromTeacher(teacher, world.recipe, "f16"), flops(lambda: teacher.model(one))


def live_over_cached(
    way: Way, drawn: list[DrawnVisit], label: FromTeacher, per_view: int, batch: int
) -> tuple[float, float, float, float]:
    """A step with the teacher's labelling of its rows over the step alone: as measured, and as FLOPs predict; views/s of
    the labelling, images/s of the step alone. Visits of one block are labelled at the teacher's constant shape."""
    stepping = statistics.median(seconds(lambda: way.step(way.compute, way.batch)) for _ in range(7))

    def labelled(visit: DrawnVisit) -> None:
        label(visit)()

    labelled(drawn[0])
    labelling = statistics.median(seconds(partial(labelled, visit)) for visit in drawn)
    rows = VIEWS * drawn[0].block.samples
    per_step = flops(lambda: way.step(way.compute, way.batch))
    views_per_s, images_per_s = rows / labelling, batch / stepping
    return 1 + images_per_s / views_per_s, 1 + per_view * batch / per_step, views_per_s, images_per_s


@click.command(help=__doc__)
@click.option("--pairs", default=50, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--sizes", default="Ti,S", show_default=True, help="Of the students.")
@click.option("--size", default=96, show_default=True, help="Pixels, a multiple of 16.")
@click.option("--teachers", default="regnety_016,regnety_040", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--block", default=32, show_default=True, help="Views that the teacher labels at once, an even number.")
def main(pairs: int, batch: int, sizes: str, size: int, teachers: str, precision: str, block: int) -> None:
    torch.set_num_threads(1)
    # a step uses up ``batch`` rows of VIEWS * samples; two more are for the start
    samples = block * -(-(pairs + 2) * batch // (block * VIEWS))
    if samples > DIGITS:
        most = max(0, DIGITS // block * block * VIEWS // batch - 2)
        raise click.UsageError(
            f"{pairs} pairs of {batch} need {samples:,} digits, there are {DIGITS:,}: at most {most} pairs, or a smaller --batch"
        )
    print(f"{machine()}; {pairs} pairs, B = {batch}, {size} px, {precision}, labelled by {block}")
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), samples, block=block, size=size, shared_pairing=VIEWS)
        drawn = [draw_visit(world.shards, world.recipe, block, 0, VIEWS) for block in world.shards.blocks[:4]]
        ways = {}
        print("", head("student", "distillation", "token", "cached / undistilled"), sep="\n")
        for name in sizes.split(","):
            for kind, token in (("hard", True), ("hard", False), ("soft", False)):
                found, ways[name] = cached_over_undistilled(world, name, kind, token, pairs, batch, precision)
                print(row(f"DeiT-{name}", kind, "yes" if token else "no", f"{found:.4f}"), flush=True)
        columns = ("live / cached", "FLOPs predict", "share", "labelling views/s", "step images/s")
        print("", head("student", "teacher", *columns), sep="\n")
        for arch in teachers.split(","):
            label, per_view = live_teacher(Path(folder), world, arch, precision)
            for name, way in ways.items():
                found, said, *speeds = live_over_cached(way, drawn, label, per_view, batch)
                ratios = [f"{value:.2f}" for value in (found, said, found / said)]
                print(row(f"DeiT-{name}", arch, *ratios, *(f"{speed:.0f}" for speed in speeds)), flush=True)


if __name__ == "__main__":
    main()
