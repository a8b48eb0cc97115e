"""List data source and test sets: path, size and time of every file, so that added or changed images are seen."""

import os
from pathlib import Path

import click

from pipeline.runtime.config import load, load_each
from pipeline.runtime.machine import pool_root
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import FOLDER, params_option


@click.command(help=__doc__)
@params_option
@click.option("--out", type=FOLDER, default=Path("work/index.tsv"), show_default=True)
@stage
def main(params: Path, out: Path) -> None:
    from pipeline.base.files import whole_directory, write_durably
    from pipeline.cache.adopt import adopt_all
    from pipeline.data import test_sets
    from pipeline.data.listing import write_listing
    from pipeline.data.sources import DataConfig, find_root, scan

    config, tests = load(params, "data", DataConfig), load_each(params, "test_sets", test_sets.SetConfig, optional=True)
    with timed(out, "index"):
        listed = scan(config, find_root(config.source, os.environ))
        write_listing(out, config.source, listed)
        with whole_directory(out.parent / "listings", ("listed",)) as fresh:
            write_durably(fresh / "listed", b"")
            for name, test in tests.items():
                found = []
                if test.source != test_sets.VAL:
                    found = test_sets.list_set(test, test_sets.find_root(name, os.environ))
                write_listing(fresh / f"{name}.tsv", test.source, found)
    adopt_all(out.parent, pool_root())
    say(f"{out}: {len(listed)} files of source {config.source}")


if __name__ == "__main__":
    main()
