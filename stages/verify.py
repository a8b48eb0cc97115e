"""Check a teacher cache, or every cache of a work pool, against its commit records."""

import json
from pathlib import Path

import click

from pipeline.runtime import IntegrityError, pool_root, say, stage
from pipeline.verification import advice, as_json, collect, repair, targets_of, verify


@click.command(help=__doc__)
@click.argument("path", metavar="CACHE_OR_POOL", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repair", "drop", is_flag=True, help="Take damaged parts out of a pool; the next run makes them anew.")
@click.option("--gc", is_flag=True, help="Remove what dead jobs left in a pool.")
@click.option("--older-than", type=click.IntRange(0), default=3600, show_default=True, help="Age for --gc, in seconds.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(path: Path, drop: bool, gc: bool, older_than: int, as_text: bool) -> None:
    results, damaged = [], []
    for cache in targets_of(path):
        report = verify(cache, pool_root())
        result = as_json(report)
        left = report.damaged
        if drop and report.kind == "pool":
            dropped = repair(cache, [finding.part for finding in left if finding.part])
            left = tuple(finding for finding in left if finding.part not in dropped)
            result["dropped"] = [list(part) for part in dropped]
        if gc and report.kind == "pool" and not any(finding.part is None for finding in left):
            result["gc"] = as_json(collect(cache, older_than))
        results.append(result)
        damaged += [finding.reason for finding in left]
        if not as_text:
            say(
                f"{cache}: {report.whole} of {report.parts} parts whole ({report.bytes / 1e6:.1f} MB, V = {report.views})"
            )
            for finding in report.findings:
                say(f"  {finding.state}: {finding.reason}")
            for key in ("dropped", "gc"):
                if key in result:
                    say(f"  {key}: {json.dumps(result[key])}")
            if left and report.kind != "pool":
                say(advice(report))
    if as_text:
        say(json.dumps(results, indent=2))
    if damaged:
        raise IntegrityError(f"{path}: {len(damaged)} damaged, first: {damaged[0]}")


if __name__ == "__main__":
    main()
