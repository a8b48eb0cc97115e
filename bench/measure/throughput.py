"""What durable commits cost the teacher stage: the same parts labelled with and without fsync, link and roll-forward.

    python -m bench.measure.throughput               V = 60, G = 60, digits at 32 px, five interleaved rounds

Prints the ratio of the medians of views per second, with over without; the goal is at least 0.98. Without means that the
rows are made, encoded and dropped. The teacher is small on purpose: the faster it is, the more a commit would show.
"""

import statistics
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import click

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
    speed: dict[str, list[float]] = {"with": [], "without": []}
    written, kept = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), samples)
        layout = layout_of(world.shards, CacheConfig(recipe="r", teacher="t", views=views, group=views, codec=codec))
        identity = cache_identity(world.shards, world.recipe, layout, world.teacher.identity(), device())
        dropped = patch.object(precompute, "commit_part", lambda *_: True)
        for number in range(rounds):
            for way in ("with", "without") if number % 2 else ("without", "with"):
                pool = open_pool(replace(world, root=Path(folder) / f"{way}{number}").pool, identity)
                parts = precompute.select(layout, views, precompute.Share())
                with dropped if way == "without" else nullcontext():
                    done = precompute.fill(pool, parts, world.shards, world.recipe, world.teacher, 3, workers)
                speed[way].append(done.views / done.total_s)
                if way == "with":
                    written = done.write_s / done.total_s
                    kept = sum(path.stat().st_size for path in pool.path.rglob("*") if path.is_file())
    medians = {way: statistics.median(values) for way, values in speed.items()}
    print(f"views/s without {medians['without']:.0f}, with {medians['with']:.0f}; store {kept} bytes")
    print(f"ratio {medians['with'] / medians['without']:.4f}; the writer was busy {100 * written:.2f} % of the time")


if __name__ == "__main__":
    main()
