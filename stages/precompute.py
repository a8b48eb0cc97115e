"""A teacher's answers on augmented views, as a teacher cache.

\b
    python -m stages.precompute --cache C                   the whole of it, published as work/caches/C
    python -m stages.precompute --cache C --share 3/16      one of 16 cluster jobs, which fill the work pool
"""

from pathlib import Path

import click

from pipeline.runtime.machine import pool_root, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.runtime.work import Work
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
def main(name: str, params: Path, work: Path, shards: str | None, share: str, only_shards: str | None,
         only_views: str | None, new_cache: bool) -> None:  # fmt: skip
    from pipeline.cache.publish import publish
    from pipeline.data.object_store import local_copy
    from pipeline.teacher.precompute import LabelledCache, Share, label_share

    made, place = LabelledCache.load(params, name), Work(work, local_copy(shards, "--shards"))
    mine = Share.parse(share, only_shards, only_views)
    out = place.cache(name) if mine.whole else None
    with timed(out, f"precompute:{name}"):
        pool, _ = label_share(made, place, pool_root(), mine, new_cache, workers())
        if out is None:
            say(f"pool: {pool.path}; when all jobs are done, publish: python -m stages.precompute --cache {name}")
            return
        publish(pool, out, made.cache.config.views, made.cache.config.publish_max)
    say(f"teacher cache: {out}")


if __name__ == "__main__":
    main()
