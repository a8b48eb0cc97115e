"""One teacher's answers on the validation split, without chance, as work/answers/<teacher>: a cache of one view."""

from pathlib import Path

import click

from pipeline.runtime.config import load
from pipeline.runtime.machine import pool_root, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--teacher", "name", required=True, help="Its name under teachers: in params.yaml.")
@params_option
@work_option
@shards_option
@click.option("--new-cache", is_flag=True, help="Start a cache beside one that only this machine's pixels tell apart.")
@stage
def main(name: str, params: Path, work: Path, shards: Path | None, new_cache: bool) -> None:
    from pipeline.cache.publish import publish
    from pipeline.data.shards import Shards
    from pipeline.teacher import precompute
    from pipeline.teacher.config import TeacherConfig
    from pipeline.views.recipe import Recipe, evaluation

    teacher = load(params, f"teachers.{name}", TeacherConfig)
    recipe = evaluation(load(params, f"recipes.{teacher.recipe}", Recipe))
    cache = precompute.answers_config(name, teacher.recipe)
    out, weights = work / "answers" / name, work / "teachers" / name / "model.safetensors"
    split = Shards.open((shards or work / "shards") / "val")
    with timed(out, f"answers:{name}"):
        pool, _ = precompute.run(
            pool_root(), split, recipe, cache, teacher, weights, precompute.Share(), new_cache, workers(), out
        )  # fmt: skip
        publish(pool, out, cache.views, cache.publish_max)
    say(f"answers: {out}")


if __name__ == "__main__":
    main()
