"""Pack one test set of params.yaml into shards, as work/test_sets/<name>; one on the validation split needs none."""

import os
from pathlib import Path

import click

from pipeline.runtime.config import load
from pipeline.runtime.machine import workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.runtime.work import Work
from stages import params_option, work_option


@click.command(help=__doc__)
@click.option("--test-set", "name", required=True, help="Its name under test_sets: in params.yaml.")
@params_option
@work_option
@stage
def main(name: str, params: Path, work: Path) -> None:
    from pipeline.base.files import whole_directory, write_durably
    from pipeline.data import test_sets
    from pipeline.data.index_file import read_listing
    from pipeline.data.pack import pack_splits
    from pipeline.data.shards import Shards

    config = load(params, f"test_sets.{name}", test_sets.SetConfig)
    out, val = Work(work).test_set(name), Shards.open(Work(work).split("val"))
    with timed(out, f"test_set:{name}"):
        if config.source == test_sets.VAL:
            if config.labels == "real":
                test_sets.real_labels(val)  # refused here, before any model is trained
            with whole_directory(out, ("unused", "val")) as fresh:
                write_durably(fresh / "unused", b"The images are those of work/shards/val.\n")
            return
        root = test_sets.find_root(name, os.environ)
        listed = read_listing(work / "listings" / f"{name}.tsv", config.source)
        split = test_sets.read_set(config, root, listed, val.classes)
        packing = test_sets.packing(config, val)
        manifest = pack_splits(packing, val.classes, {"val": split}, out, workers() + 1)["val"]
    say(f"{out}: {manifest.samples} images, {len(manifest.quarantined)} quarantined")


if __name__ == "__main__":
    main()
