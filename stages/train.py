"""Trains one student of params.yaml."""

from pathlib import Path

import click

from pipeline.base.files import refuse_foreign
from pipeline.cache.layout import CacheConfig
from pipeline.runtime import config
from pipeline.runtime.code import code_of
from pipeline.runtime.machine import distributed, pool_root, rank, workers, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.student import train
from pipeline.student.config import StudentConfig
from pipeline.teacher.config import TeacherConfig
from pipeline.training.config import TrainConfig
from pipeline.training.schedule import lanes_of
from pipeline.views.recipe import Recipe

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--student", "name", required=True, help="Its name under students: in params.yaml.")
@click.option("--shards", type=FOLDER, default=Path("work/shards"), show_default=True)
@click.option("--cache", type=FOLDER, help="work/caches/<cache>, for supervise: cached and auto")
@click.option("--teacher", type=FOLDER, help="work/teachers/<teacher>, for supervise: live and auto")
@click.option("--out", type=FOLDER, required=True, help="work/students/<student>")
@stage
def main(params: Path, name: str, shards: Path, cache: Path | None, teacher: Path | None, out: Path) -> None:
    how = config.load(params, "train", TrainConfig)
    chosen = config.load(params, f"students.{name}", StudentConfig)
    recipe = config.load(params, "views", Recipe)
    views = config.load(params, "cache", CacheConfig)
    teacher_config = config.load(params, "teacher", TeacherConfig)
    refuse_foreign(out, train.MARKS)
    lanes_of(rank(), world_size(), how.lanes)  # refused before the ranks wait for each other
    with timed(out, f"train:{name}"), distributed():
        inputs = train.open_inputs(shards, recipe, views, chosen, teacher_config, cache, teacher)
        runs = pool_root() / "runs" / train.run_key(how, chosen, inputs, code_of("train"))[:16]
        trained = train.train_student(name, how, chosen, inputs, runs, workers())
        if rank() == 0:
            train.write_student(trained, chosen, inputs.train.classes, recipe, out)
    say(f"student: {out}")


if __name__ == "__main__":
    main()
