"""Small folders and tars of images, and the configurations that read them."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.sources import DataConfig
from tests.data.test_webdataset_tars import plain, write_tar

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
    write_tar(root / "train" / "a.tar", plain(6))
    write_tar(root / "val" / "a.tar", plain(3))
    return root
