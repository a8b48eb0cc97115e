"""Look at views as the teacher saw them, or at what a teacher cache holds."""

import json
from pathlib import Path

import click

from pipeline.runtime.config import load, write_yaml
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
from stages import FOLDER, params_option, work_option


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@click.option("--recipe", "name", required=True, help="Its name under recipes: in params.yaml.")
@click.option("--cache", help="Its name under caches: in params.yaml; adds the teacher's answers.")
@click.option("--split", type=click.Choice(["train", "val"]), default="train", show_default=True)
@params_option
@work_option
@click.option("--block", type=click.IntRange(0), default=0, show_default=True)
@click.option("--samples", type=click.IntRange(1, 32), default=6, show_default=True)
@click.option("--first-view", type=click.IntRange(0), default=0, show_default=True)
@click.option("--count", type=click.IntRange(1, 32), default=6, show_default=True, help="Views per sample.")
@click.option("--out", type=FOLDER, default=Path("work/views.html"), show_default=True)
@stage
def views(name: str, cache: str | None, split: str, params: Path, work: Path, block: int, samples: int,
          first_view: int, count: int, out: Path) -> None:  # fmt: skip
    """A page: samples x views, mixed and erased, with label, partner, lambda and the teacher's top three."""
    from pipeline.data.shards import Shards
    from pipeline.report import page, pictures
    from pipeline.views.recipe import Recipe, of_split

    recipe = of_split(load(params, f"recipes.{name}", Recipe), split)
    shards, opened = Shards.open(Work(work).split(split)), Work(work).cache(cache) if cache else None
    rows = pictures.views(shards, recipe, opened, block, samples, range(first_view, first_view + count))
    page.write_views(out, rows, name, recipe.size)
    say(f"views: {out}")


@main.command()
@click.argument("path", type=FOLDER)
@click.option("--shards", type=FOLDER, help="work/shards/<split>: adds the agreement with the labels")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def cache(path: Path, shards: Path | None, as_text: bool) -> None:
    """Identity, coverage, bytes and statistics of a teacher cache."""
    from pipeline.data.shards import Shards
    from pipeline.report.inspect_cache import inspect_cache, readable_cache

    found = inspect_cache(path, Shards.open(shards) if shards else None)
    say(json.dumps(found, indent=1) if as_text else write_yaml(readable_cache(found)))


if __name__ == "__main__":
    main()
