"""Scores one trained student on the validation split, and how often it agrees with each teacher."""

import json
from pathlib import Path

import click

from pipeline.runtime.config import load, names
from pipeline.runtime.machine import distributed, rank, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--student", "name", required=True, help="Its name under students: in params.yaml.")
@params_option
@work_option
@shards_option
@stage
def main(name: str, params: Path, work: Path, shards: Path | None) -> None:
    from pipeline.base.files import write_durably
    from pipeline.data.shards import Shards
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.student.config import StudentConfig
    from pipeline.views.recipe import Recipe

    chosen = load(params, f"students.{name}", StudentConfig)
    recipe = load(params, f"recipes.{chosen.recipe}", Recipe)
    answers = {teacher: work / "answers" / teacher for teacher in names(params, "teachers")}
    out, val = work / "eval" / name, Shards.open((shards or work / "shards") / "val")
    with timed(out, f"evaluate:{name}"), distributed():
        found = evaluate(work / "students" / name, val, recipe, answers, workers())
        if rank() == 0:
            write_durably(out / "metrics.json", json.dumps(found, indent=1).encode() + b"\n")
    best = found["heads"]["fused" if "fused" in found["heads"] else "class"]
    say(f"{name}: {best['top1']:.2f} % top-1; {out / 'metrics.json'}")


if __name__ == "__main__":
    main()
