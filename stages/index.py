"""List the data source: path, size and time of every file, so that ``shard`` sees added or changed images."""

import os
from pathlib import Path

import click

from pipeline.runtime.config import load
from pipeline.runtime.machine import pool_root
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import FOLDER, params_option


@click.command(help=__doc__)
@params_option
@click.option("--out", type=FOLDER, default=Path("work/index.tsv"), show_default=True)
@stage
def main(params: Path, out: Path) -> None:
    from pipeline.cache.adopt import adopt_all
    from pipeline.data.listing import write_listing
    from pipeline.data.sources import DataConfig, find_root, scan

    config = load(params, "data", DataConfig)
    with timed(out, "index"):
        listed = scan(config, find_root(config.source, os.environ))
        write_listing(out, config.source, listed)
    adopt_all(out.parent, pool_root())
    say(f"{out}: {len(listed)} files of source {config.source}")


if __name__ == "__main__":
    main()
