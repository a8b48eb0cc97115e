"""The teacher's answers on augmented views, as a teacher cache.

\b
    python -m stages.precompute --split train --teacher work/teachers/T --out work/caches/C
    python -m stages.precompute --split train --teacher work/teachers/T --share 3/16     one of 16 cluster jobs
"""

from pathlib import Path

import click

from pipeline.cache.layout import CacheConfig
from pipeline.cache.publish import publish
from pipeline.data.shards import Shards
from pipeline.runtime import config
from pipeline.runtime.machine import pool_root, workers, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.teacher import precompute
from pipeline.teacher.config import TeacherConfig
from pipeline.views.recipe import Recipe, evaluation

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--shards", type=FOLDER, default=Path("work/shards"), show_default=True)
@click.option("--split", type=click.Choice(["train", "val"]), default="train", show_default=True)
@click.option("--teacher", type=FOLDER, required=True, help="work/teachers/<teacher>")
@click.option("--out", type=FOLDER, help="Where to publish the whole cache; without it the pool is filled only.")
@click.option("--share", default="1/1", show_default=True, help="i/n: this is job i of n.")
@click.option("--only-shards", help="first:end, e.g. 0:100")
@click.option("--only-views", help="first:end, whole view groups, e.g. 0:60")
@click.option("--new-cache", is_flag=True, help="Start a cache beside one that only this machine's pixels tell apart.")
@stage
def main(params: Path, shards: Path, split: str, teacher: Path, out: Path | None, share: str,
         only_shards: str | None, only_views: str | None, new_cache: bool) -> None:  # fmt: skip
    chosen = config.load(params, "teacher", TeacherConfig)
    recipe = config.load(params, "views", Recipe)
    cache = config.load(params, "cache", CacheConfig)
    if split == "val":
        recipe, cache = evaluation(recipe), precompute.validation_config(cache)
    with timed(out, f"precompute_{split}"):
        pool, _ = precompute.run(
            pool_root(), Shards.open(shards / split), recipe, cache, chosen, teacher / "model.safetensors",
            precompute.Share.parse(share, only_shards, only_views), new_cache, workers(), out,
        )  # fmt: skip
        if out is None or world_size() > 1:
            say(f"pool: {pool.path}; when all jobs are done, publish with: dvc repro (or --out, without torchrun)")
            return
        publish(pool, out, cache.views, cache.publish_max)
    say(f"teacher cache: {out}")


if __name__ == "__main__":
    main()
