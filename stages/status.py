"""Says how far each stage is: steps, parts, time left, jobs and their last errors. It reads files only, and computes nothing.

\b
    python -m stages.status            once; with or without Slurm, also beside dvc repro
    python -m stages.status --watch    again every 5 seconds, until Ctrl-C
"""

import json
import time
from pathlib import Path

import click

from pipeline.runtime.machine import pool_root
from pipeline.runtime.stage import stage

_EVERY = 5.0  # seconds


@click.command(help=__doc__)
@click.option("--watch", is_flag=True, help="Say it again every 5 seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
@stage
def main(watch: bool, as_json: bool) -> None:
    from pipeline.cluster.status import Run, document, table

    while True:
        run = Run.load(Path.cwd(), pool_root().absolute())
        text = json.dumps(document(run)) if as_json else "\n".join(table(run))
        click.echo("\x1b[H\x1b[2J" * (watch and not as_json) + text)
        if not watch:
            return
        time.sleep(_EVERY)


if __name__ == "__main__":
    main()
