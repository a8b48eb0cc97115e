"""Before a long run: parts, files, bytes, hours on this machine (by a short probe), memory, when the cache pays."""

import json
from pathlib import Path

import click

from pipeline.runtime.config import read_yaml
from pipeline.runtime.machine import workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
from stages import FOLDER, params_option


@click.command(help=__doc__)
@params_option
@click.option("--shards", type=FOLDER, default=Path("work/shards"), show_default=True)
@click.option("--cache", "name", help="Its name under caches: in params.yaml; default: the first one.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(params: Path, shards: Path, name: str | None, as_text: bool) -> None:
    from pipeline.planning.cost import describe_cost, plan
    from pipeline.planning.pieces import parse_pieces

    found = plan(Work(shards.parent, shards), parse_pieces(read_yaml(params)), name, workers())
    say(json.dumps(found, indent=1) if as_text else describe_cost(found))


if __name__ == "__main__":
    main()
