"""A teacher's answers on augmented views, as a teacher cache.

\b
    python -m stages.precompute --cache C                   the whole of it, published as work/caches/C
    python -m stages.precompute --cache C --share 3/16      one of 16 cluster jobs, which fill the work pool
"""

from pathlib import Path

import click

from pipeline.runtime.config import load
from pipeline.runtime.machine import pool_root, workers, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--cache", "name", required=True, help="Its name under caches: in params.yaml.")
@params_option
@work_option
@shards_option
@click.option("--share", default="1/1", show_default=True, help="i/n: this is job i of n; the pool is filled only.")
@click.option("--only-shards", help="first:end, e.g. 0:100; the pool is filled only.")
@click.option("--only-views", help="first:end, whole view groups, e.g. 0:60; the pool is filled only.")
@click.option("--new-cache", is_flag=True, help="Start a cache beside one that only this machine's pixels tell apart.")
@stage
def main(name: str, params: Path, work: Path, shards: Path | None, share: str, only_shards: str | None,
         only_views: str | None, new_cache: bool) -> None:  # fmt: skip
    from pipeline.cache.layout import CacheConfig
    from pipeline.cache.publish import publish
    from pipeline.data.shards import Shards
    from pipeline.teacher import precompute
    from pipeline.teacher.config import TeacherConfig
    from pipeline.views.recipe import Recipe

    cache = load(params, f"caches.{name}", CacheConfig)
    recipe = load(params, f"recipes.{cache.recipe}", Recipe)
    teacher = load(params, f"teachers.{cache.teacher}", TeacherConfig)
    mine = precompute.Share.parse(share, only_shards, only_views)
    out = work / "caches" / name if mine.whole and world_size() == 1 else None
    weights = work / "teachers" / cache.teacher / "model.safetensors"
    split = Shards.open((shards or work / "shards") / "train")
    with timed(out, f"precompute:{name}"):
        pool, _ = precompute.run(
            pool_root(), split, recipe, cache, teacher, weights, mine, new_cache, workers(), out
        )  # fmt: skip
        if out is None:
            say(f"pool: {pool.path}; when all jobs are done, publish: python -m stages.precompute --cache {name}")
            return
        publish(pool, out, cache.views, cache.publish_max)
    say(f"teacher cache: {out}")


if __name__ == "__main__":
    main()
