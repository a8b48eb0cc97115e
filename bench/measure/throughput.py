"""What durable commits cost the teacher stage: the same parts labelled with and without fsync, link and roll-forward.

\b
    python -m bench.measure.throughput               V = 60, G = 60, digits at 32 px, five interleaved rounds

Prints views per second, with over without; the goal is at least 0.98. Without means that the rows are made, encoded and
dropped. The teacher is small on purpose: the faster it is, the more a commit would show.
"""

import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import click

from bench.timing import compared, interleaved, machine
from pipeline.cache.codec import CodecName
from pipeline.cache.identity import cache_identity
from pipeline.cache.layout import CacheConfig, layout_of
from pipeline.cache.pool import open_pool
from pipeline.runtime.machine import device
from pipeline.teacher import precompute
from tests.support.world import make_world


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--views", default=60, show_default=True, help="V = G")
@click.option("--samples", default=640, show_default=True)
@click.option("--codec", type=click.Choice(["none", "u8", "f16"]), default="none", show_default=True)
@click.option("--workers", default=1, show_default=True)
def main(rounds: int, views: int, samples: int, codec: CodecName, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), samples)
        layout = layout_of(world.shards, CacheConfig(recipe="r", teacher="t", views=views, group=views, codec=codec))
        identity = cache_identity(world.shards, world.recipe, layout, world.teacher.identity(), device())
        parts = precompute.select(layout, views, precompute.Share())
        dropped = patch.object(precompute, "commit_part", lambda *_: True)

        def fill(commits: bool) -> precompute.Summary:
            pool = open_pool(Path(tempfile.mkdtemp(dir=folder)), identity)
            with nullcontext() if commits else dropped:
                return precompute.fill(pool, parts, world.shards, world.recipe, world.teacher, workers)

        found = interleaved({"without commits": partial(fill, False), "with commits": partial(fill, True)}, rounds)
    speed = {way: [done.views / done.total_s for done in runs] for way, runs in found.items()}
    print(f"{machine()}\n\n{compared(speed, 'views/s')}\n")
    written = max(done.write_s / done.total_s for done in found["with commits"])
    print(f"the writer was busy for at most {100 * written:.2f} % of the time")


if __name__ == "__main__":
    main()
