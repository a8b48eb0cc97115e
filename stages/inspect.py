"""Look at views as the teacher saw them, or at what a teacher cache holds."""

import json
from pathlib import Path

import click

from pipeline.cache.identity import check_views
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Shards
from pipeline.report import gallery
from pipeline.report.inspection import inspect
from pipeline.runtime import config
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.views.recipe import Recipe, of_split

FOLDER = click.Path(path_type=Path)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--shards", type=FOLDER, default=Path("work/shards/train"), show_default=True)
@click.option("--cache", type=FOLDER, help="work/caches/<cache>: adds the teacher's answers")
@click.option("--block", type=click.IntRange(0), default=0, show_default=True)
@click.option("--samples", type=click.IntRange(1, 32), default=6, show_default=True)
@click.option("--first-view", type=click.IntRange(0), default=0, show_default=True)
@click.option("--count", type=click.IntRange(1, 32), default=6, show_default=True, help="Views per sample.")
@click.option("--out", type=FOLDER, default=Path("work/views.png"), show_default=True)
@stage
def views(params: Path, shards: Path, cache: Path | None, block: int, samples: int, first_view: int, count: int,
          out: Path) -> None:  # fmt: skip
    """A picture: samples x views, mixed and erased, with label, partner, lambda and the teacher's top three."""
    if out.suffix != ".png":
        raise UsageError(f"--out: expected a .png file, found {out}")
    split, opened = Shards.open(shards), open_cache(cache) if cache else None
    recipe = of_split(config.load(params, "views", Recipe), split.manifest.split)
    if opened and cache:
        check_views(opened, split, recipe, device(), cache)
    gallery.save(gallery.cells(split, recipe, opened, block, samples, first_view, count), out)
    say(f"views: {out}")


@main.command()
@click.argument("path", type=FOLDER)
@click.option("--shards", type=FOLDER, help="work/shards/<split>: adds the agreement with the labels")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def cache(path: Path, shards: Path | None, as_text: bool) -> None:
    """Identity, coverage, bytes and statistics of a teacher cache."""
    found = inspect(path, Shards.open(shards) if shards else None)
    say(json.dumps(found, indent=1) if as_text else config.outline(found))


if __name__ == "__main__":
    main()
