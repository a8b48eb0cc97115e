"""The demo's digits in the forms that other data come in, to try those sources without a download.

python -m tests.support.digits_as folder DIR     DIR/train/<class>/*.png and DIR/val: then DATA_ROOT=DIR, configure data=folder
python -m tests.support.digits_as cifar10 DIR    DIR/cifar-10-python.tar.gz, digits in colour at 32 px: configure data=cifar10
                                             data.md5={} data.expected=null
"""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from pipeline.data.shards import Sample, Shards


def write_folder(split: list[Sample], directory: Path) -> None:
    """``directory/<class>/<number>.png`` as the shards hold them."""
    for number, sample in enumerate(split):
        path = directory / str(sample.label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data)


def coloured(split: list[Sample], seed: int) -> np.ndarray:
    """uint8 (N, 3072), CIFAR's rows: each digit at 32 px in a random light colour on a random dark one."""
    random, rows = np.random.default_rng(seed), []
    for sample in split:
        ink, paper = random.integers(160, 256, (3, 1, 1)), random.integers(0, 96, (3, 1, 1))
        digit = Image.open(io.BytesIO(sample.data)).convert("L").resize((32, 32), Image.Resampling.BICUBIC)
        share = np.asarray(digit, np.float64) / 255
        rows.append(np.round(share * ink + (1 - share) * paper).astype(np.uint8).reshape(-1))
    return np.stack(rows)


def write_cifar(train: list[Sample], val: list[Sample], path: Path) -> None:
    """CIFAR-10's archive, python version: five batches of ``train``, ``test_batch`` and ``batches.meta``."""
    parts = {f"data_batch_{i + 1}": train[i::5] for i in range(5)} | {"test_batch": val}
    files: dict[str, dict[bytes, Any]] = {"batches.meta": {b"label_names": [b"%d" % digit for digit in range(10)]}}
    for seed, (name, split) in enumerate(parts.items()):
        names = [b"%d.png" % number for number in range(len(split))]
        files[name] = {b"data": coloured(split, seed), b"labels": [s.label for s in split], b"filenames": names}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@click.command(help=__doc__)
@click.argument("form", type=click.Choice(["folder", "cifar10"]))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--shards", type=click.Path(path_type=Path), default=Path("work/shards"), show_default=True)
def main(form: str, directory: Path, shards: Path) -> None:
    train, val = (
        [sample for block in split.blocks for sample in split.read(block)]
        for split in (Shards.open(shards / "train"), Shards.open(shards / "val"))
    )
    if form == "folder":
        write_folder(train, directory / "train")
        write_folder(val, directory / "val")
    else:
        write_cifar(train, val, directory / "cifar-10-python.tar.gz")
    print(f"{directory}: {len(train)} training and {len(val)} validation images")


if __name__ == "__main__":
    main()
