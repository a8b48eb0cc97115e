"""Check a teacher cache, or every cache of a work pool, against its records; --predict asks the teacher again."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cache.repair import collect, repair
from pipeline.cache.verify import advice, describe, targets_of, verify
from pipeline.data.shards import Shards
from pipeline.runtime import config
from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import pool_root, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.teacher import audit
from pipeline.teacher.config import TeacherConfig
from pipeline.views.recipe import Recipe, of_split

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("path", metavar="CACHE_OR_POOL", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repair", "drop", is_flag=True, help="Take damaged parts out of a pool; the next run makes them anew.")
@click.option("--gc", is_flag=True, help="Remove what dead jobs left in a pool.")
@click.option("--older-than", type=click.IntRange(0), default=3600, show_default=True, help="Age for --gc, in seconds.")
@click.option("--predict", type=click.IntRange(0), default=0, help="Run the teacher again on so many random parts.")
@click.option("--seed", default=0, show_default=True, help="Draws the parts for --predict.")
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True, help="For --predict.")
@click.option("--shards", type=FOLDER, default=Path("work/shards/train"), show_default=True, help="For --predict.")
@click.option("--teacher", type=FOLDER, help="work/teachers/<teacher>, for --predict.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(path: Path, drop: bool, gc: bool, older_than: int, predict: int, seed: int, params: Path, shards: Path,
         teacher: Path | None, as_text: bool) -> None:  # fmt: skip
    results, damaged = [], list[str]()
    show = (lambda text: None) if as_text else say
    for cache in targets_of(path):
        report = verify(cache, pool_root())
        result, left = asdict(report), report.damaged
        if drop and report.kind == "pool":
            result["dropped"] = dropped = repair(cache, [finding.part for finding in left if finding.part])
            left = tuple(finding for finding in left if finding.part not in dropped)
        if gc and report.kind == "pool" and not any(finding.part is None for finding in left):
            result["gc"] = asdict(collect(cache, older_than))
        results.append(result)
        damaged += [finding.reason for finding in left]
        show(describe(report, result) + (f"\n{advice(report)}" if left and report.kind != "pool" else ""))
    if predict and not damaged:
        split, chosen = Shards.open(shards), config.load(params, "teacher", TeacherConfig)
        recipe = of_split(config.load(params, "views", Recipe), split.manifest.split)
        weights = (teacher or Path("work/teachers") / chosen.name) / "model.safetensors"
        found = audit.audit(path, split, recipe, chosen, weights, predict, seed, workers())
        results[0]["predict"], damaged = asdict(found), found.problems
        show(f"  predict: {json.dumps(asdict(found))}")
    if as_text:
        say(json.dumps(results, indent=2))
    if damaged:
        raise IntegrityError(f"{path}: {len(damaged)} damaged, first: {damaged[0]}")


if __name__ == "__main__":
    main()
