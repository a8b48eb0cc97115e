"""Pack the listed images into WebDataset shards, proving that each of them decodes."""

import os
from pathlib import Path

import click

from pipeline.runtime.config import NONE, load
from pipeline.runtime.machine import workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import FOLDER, params_option


@click.command(help=__doc__)
@params_option
@click.option("--index", type=FOLDER, default=Path("work/index.tsv"), show_default=True)
@click.option("--out", type=FOLDER, default=Path("work/shards"), show_default=True)
@stage
def main(params: Path, index: Path, out: Path) -> None:
    from pipeline.base.files import write_durably
    from pipeline.data.index_file import read_listing, read_order
    from pipeline.data.pack import pack_splits
    from pipeline.data.sources import DataConfig, find_root, read_splits

    config = load(params, "data", DataConfig)
    root = find_root(config.source, os.environ)
    listed, order = read_listing(index, config.source), read_order(index, config.source)
    classes, splits = read_splits(config, root, listed, order)
    with timed(out, "shard"):
        manifests = pack_splits(config, classes, splits, out, workers() + 1, order is not None)
    for kind in (
        "students",
        "teachers",
        "caches",
        "answers",
        "test_sets",
    ):  # DVC wants a path where a piece uses none of a kind
        write_durably(out.parent / kind / NONE / "unused", f"Stands for no {kind}.\n".encode())
    for name, manifest in manifests.items():
        left_out = f", {len(manifest.quarantined)} quarantined" if manifest.quarantined else ""
        count = f"{manifest.samples} images, {len(manifest.classes)} classes, {len(manifest.shards)} shards"
        say(f"{out / name}: {count}{left_out}")


if __name__ == "__main__":
    main()
