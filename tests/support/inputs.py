"""Small folders and tars of images, and the configurations that read them."""

import io
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.data.images import encode_png
from pipeline.data.listing import Entry
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.runtime.errors import PipelineError
from stages import index, shard

FOLDER = DataConfig(source="folder", shard_size=4, block=2)
TARS = DataConfig(source="webdataset", shard_size=4, block=2)
IMAGENET = DataConfig(source="imagenet", shard_size=4, block=2)
RAMP = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)


def picture(path: Path, kind: str = "PNG", seed: int = -1, **options: object) -> Path:
    """A random image; each path has its own pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(zlib.crc32("/".join(path.parts[-3:]).encode()) if seed < 0 else seed)
    Image.fromarray(chance.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path, kind, **options)
    return path


def write_folder(root: Path) -> Path:
    """Two classes with two images each in train and val."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            for row in (1, 2):
                picture(root / split / name / f"{row}.png")
    return root


def write_tars(root: Path) -> Path:
    """A tar of 6 samples in train and one of 3 in val."""
    write_tar(root / "train" / "a.tar", tar_samples(6))
    write_tar(root / "val" / "a.tar", tar_samples(3))
    return root


PNG = [encode_png(np.full((8, 8), value, np.uint8)) for value in range(12)]


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    return info, data


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))


def tar_samples(count: int, prefix: str = "s") -> list[tuple[tarfile.TarInfo, bytes]]:
    rows = range(count)
    return [m for i in rows for m in (member(f"{prefix}{i}.cls", b"%d" % (i % 3)), member(f"{prefix}{i}.png", PNG[i]))]


def write_cifar_batches(root: Path, rows: int = 10) -> Path:
    directory = root / "cifar-10-batches-py"
    directory.mkdir()
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        pixels = np.random.default_rng(i).integers(0, 256, (rows, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [row % 10 for row in range(rows)], b"filenames": [b"x"] * rows}
        (directory / name).write_bytes(pickle.dumps(batch, protocol=2))
    (directory / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}, 2))
    return directory


def entries(count: int, prefix: str = "k") -> list[Entry]:
    images = [encode_png(np.full((4, 4), row, np.uint8)) for row in range(count)]
    return [
        Entry(f"{prefix}{row}.png", f"{prefix}/{row}", row % 3, "png", len(data), data=data)
        for row, data in enumerate(images)
    ]


def read(config: DataConfig, root: Path) -> tuple[tuple[str, ...], dict]:
    return read_splits(config, root, scan(config, root))


def refused(config: DataConfig, root: Path) -> tuple[int, str]:
    with pytest.raises(PipelineError) as caught:
        read(config, root)
    return caught.value.exit_code, str(caught.value)


def packed(config: DataConfig, root: Path, out: Path) -> Shards:
    classes, splits = read(config, root)
    pack_splits(config, classes, splits, out, 1)
    return Shards.open(out / "train")


def index_and_shard(root: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """``index`` and ``shard`` through the command line, with output beside the data."""
    work = root.parent / "work"
    monkeypatch.setenv("DATA_ROOT", str(root))
    (root.parent / "params.yaml").write_text(f"data: {{{config}, shard_size: 4, block: 2}}")
    params = ["--params", str(root.parent / "params.yaml")]
    listing = ["--out", str(work / "index.tsv")], ["--index", str(work / "index.tsv"), "--out", str(work / "shards")]
    runner = CliRunner()
    return [runner.invoke(command.main, [*params, *rest]) for command, rest in zip((index, shard), listing)]
