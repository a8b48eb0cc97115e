"""List data source and test sets: path, size and time of every file, so that added or changed images are seen."""

import os
from contextlib import suppress
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
@click.option(
    "--reorder", is_flag=True, help="Start a new order of the images: all shards are packed and labelled anew."
)
@stage
def main(params: Path, out: Path, reorder: bool) -> None:
    from pipeline.base.files import whole_directory, write_durably
    from pipeline.cache.adopt import adopt_all
    from pipeline.data import test_sets
    from pipeline.data.growth import in_kept_order, kept_copy
    from pipeline.data.index_file import write_listing
    from pipeline.data.sources import DataConfig, find_root, scan

    config, tests = load(params, "data", DataConfig), load_each(params, "test_sets", test_sets.SetConfig, optional=True)
    with timed(out, "index"):
        root = find_root(config.source, os.environ)
        copy = kept_copy(pool_root(), config, root)
        if not reorder and not out.is_file() and copy.is_file():
            say(f"{out}: not there; the images keep the order of {copy}")
        last = None if reorder else out if out.is_file() else copy
        listed, order = in_kept_order(config, root, scan(config, root), last)
        write_listing(out, config.source, listed, order)
        if order is not None:
            with suppress(OSError):  # a pool that can't be written
                write_listing(copy, config.source, listed, order)
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
