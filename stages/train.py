"""Trains one student of params.yaml."""

from pathlib import Path

import click

from pipeline.runtime.config import load, peek
from pipeline.runtime.machine import distributed, pool_root, rank, workers, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--student", "name", required=True, help="Its name under students: in params.yaml.")
@params_option
@work_option
@shards_option
@stage
def main(name: str, params: Path, work: Path, shards: Path | None) -> None:
    from pipeline.base.files import require_own
    from pipeline.cache.layout import CacheConfig
    from pipeline.runtime.code import code_of
    from pipeline.student import train
    from pipeline.student.config import StudentConfig
    from pipeline.student.inputs import open_inputs, run_key
    from pipeline.teacher.config import TeacherConfig
    from pipeline.training import journal
    from pipeline.training.config import TrainConfig
    from pipeline.training.schedule import lanes_of
    from pipeline.views.recipe import Recipe

    chosen = load(params, f"students.{name}", StudentConfig)
    how = load(params, f"trainings.{chosen.training}", TrainConfig)
    recipe = load(params, f"recipes.{chosen.recipe}", Recipe)
    cache = peek(params, f"caches.{chosen.cache}", CacheConfig)
    maker = cache.teacher if cache is not None else chosen.teacher
    teacher = peek(params, f"teachers.{maker}", TeacherConfig)
    out = work / "students" / name
    require_own(out, train.MARKS)
    lanes_of(
        rank(), world_size(), how.lanes, f"trainings.{chosen.training}.lanes"
    )  # refused before the ranks wait for each other
    with timed(out, f"train:{name}") as notes, distributed():
        inputs = open_inputs(work, shards or work / "shards", chosen, recipe, how, cache, teacher)
        runs = pool_root() / "runs" / run_key(how, chosen, inputs, code_of("train"))[:16]
        trained = train.train_student(name, how, chosen, inputs, runs, workers())
        if rank() == 0:
            train.write_student(trained, how, chosen, inputs.train.classes, recipe, out)
            notes["speed"] = journal.read_speed(runs)
    say(f"student: {out}")


if __name__ == "__main__":
    main()
