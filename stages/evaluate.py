"""Runs one trained student over each test set, once: its answers, scores, and the metrics, curves and plots of DVC."""

import json
from pathlib import Path

import click

from pipeline.runtime.config import load, load_each
from pipeline.runtime.machine import distributed, rank, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.runtime.work import Work
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--student", "name", required=True, help="Its name under students: in params.yaml.")
@params_option
@work_option
@shards_option
@click.option("--json", "as_text", is_flag=True, help="Print the scores as one JSON document.")
@stage
def main(name: str, params: Path, work: Path, shards: str | None, as_text: bool) -> None:
    from pipeline.base.files import require_own
    from pipeline.data.object_store import local_copy
    from pipeline.data.test_sets import SetConfig
    from pipeline.evaluation.sets import open_sets
    from pipeline.evaluation.students import evaluate
    from pipeline.evaluation.write_scores import MARKS, write_scores
    from pipeline.student.config import StudentConfig
    from pipeline.views.recipe import Recipe

    chosen = load(params, f"students.{name}", StudentConfig)
    recipe = load(params, f"recipes.{chosen.recipe}", Recipe)
    configs = load_each(params, "test_sets", SetConfig, optional=True)
    place = Work(work, local_copy(shards, "--shards"))
    out = place.scores(name)
    require_own(out, MARKS)
    with timed(out, f"evaluate:{name}") as notes, distributed():
        sets = open_sets(place, configs, recipe)
        found = evaluate(place.student(name), sets, workers())
        if rank() == 0:
            scored, size = write_scores(place, name, found, configs, sets)
            notes |= found.speed
            best = scored["sets"]["val"]["heads"][scored["sets"]["val"]["best"]]
            low, high = best["interval"]
            say(json.dumps(scored, indent=1) if as_text else
                f"{name}: {best['top1']:.2f} % top-1 (95 % {low:.2f} to {high:.2f}); {out} ({size / 1e6:.1f} MB)")  # fmt: skip


if __name__ == "__main__":
    main()
