"""Scores one trained student on the validation split."""

import json
from pathlib import Path

import click

from pipeline.base.files import write_durably
from pipeline.data.shards import Shards
from pipeline.evaluation import evaluate
from pipeline.runtime import config
from pipeline.runtime.machine import distributed, rank, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.views.recipe import Recipe

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--shards", type=FOLDER, default=Path("work/shards"), show_default=True)
@click.option("--student", type=FOLDER, required=True, help="work/students/<student>")
@click.option("--cache", type=FOLDER, help="work/caches/<cache>-val: the teacher's answers, for the agreement")
@click.option("--out", type=FOLDER, required=True, help="work/eval/<student>")
@stage
def main(params: Path, shards: Path, student: Path, cache: Path | None, out: Path) -> None:
    recipe = config.load(params, "views", Recipe)
    with timed(out, f"evaluate:{student.name}"), distributed():
        found = evaluate.evaluate(student, Shards.open(shards / "val"), recipe, cache, workers())
        if rank() == 0:
            write_durably(out / "metrics.json", json.dumps(found, indent=1).encode() + b"\n")
    best = found["heads"]["fused" if "fused" in found["heads"] else "class"]
    say(f"{student.name}: {best['top1']:.2f} % top-1; {out / 'metrics.json'}")


if __name__ == "__main__":
    main()
