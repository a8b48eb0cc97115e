"""Check a teacher cache, or every cache of a work pool, against its records; --audit asks the teacher again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import pool_root, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
from stages import FOLDER


@click.command(help=__doc__)
@click.argument("path", metavar="CACHE_OR_POOL", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repair", "drop", is_flag=True, help="Take damaged parts out of a pool; the next run makes them anew.")
@click.option("--gc", is_flag=True, help="Remove what dead jobs left in a pool.")
@click.option("--older-than", type=click.IntRange(0), default=3600, show_default=True, help="Age for --gc, in seconds.")
@click.option("--audit", "parts", type=click.IntRange(0), default=0,
              help="Ask the teacher again about so many random parts.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Draws the parts for --audit.")
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True, help="For --audit.")
@click.option("--work", type=FOLDER, default=Path("work"), show_default=True, help="For --audit: shards and teachers.")
@click.option("--cache", "name", help="For --audit: its name under caches: in params.yaml; default: that of the path.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(path: Path, drop: bool, gc: bool, older_than: int, parts: int, seed: int, params: Path, work: Path,
         name: str | None, as_text: bool) -> None:  # fmt: skip
    from pipeline.cache.repair import examine
    from pipeline.cache.verify import targets_of

    results, damaged = list[dict[str, Any]](), list[str]()
    show = (lambda text: None) if as_text else say
    for cache in targets_of(path):
        result, left, text = examine(cache, pool_root(), drop, gc, older_than)
        results.append(result)
        damaged += [finding.reason for finding in left]
        show(text)
    if parts and not damaged:
        from pipeline.teacher.audit import audit
        from pipeline.teacher.precompute import LabelledCache

        made = LabelledCache.load(params, name or path.resolve().name)
        found = audit(path, made, Work(work), parts, seed, workers())
        results[0]["audit"], damaged = asdict(found), found.problems
        show(f"  audit: {found}")
    if as_text:
        say(json.dumps(results, indent=2))
    if damaged:
        raise IntegrityError(f"{path}: {len(damaged)} damaged, first: {damaged[0]}")


if __name__ == "__main__":
    main()
