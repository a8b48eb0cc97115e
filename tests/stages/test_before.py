"""Shards and a cache written by the code before inputs of other kinds were taken: still whole, and still the same.

The cache holds two views in one group, codec u8, of ``tests.support.fake_teacher``'s rows."""

import tarfile
from pathlib import Path

import pytest
import torch

from pipeline.base.files import sha256_file
from pipeline.base.sums import SUMS
from pipeline.cache.identity import require_views
from pipeline.cache.reader import open_cache
from pipeline.data.digits import load_pixels
from pipeline.data.images import encode_png
from pipeline.data.pack import pack
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.views.recipe import Recipe
from tests.support import fake_teacher as fake

CONFIG = DataConfig(source="folder", shard_size=4, block=2, seed=3)
RECIPE = Recipe(seed=1, size=8)


def make_folder(root: Path) -> None:
    """A folder of digits: three classes, six training and three validation images."""
    pixels = load_pixels()[0]
    for row in range(9):
        path = root / ("train" if row < 6 else "val") / f"c{row % 3}" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels[row]))


@pytest.fixture
def before(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parents[1] / "before" / "work.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def hashes(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_images_give_the_very_shards_of_the_code_before(before: Path) -> None:
    make_folder(before / "data")
    classes, splits = read_splits(CONFIG, before / "data", scan(CONFIG, before / "data"))
    pack(CONFIG, classes, splits, before / "now", 1)
    now, shards = hashes(before / "now"), hashes(before / "shards")
    assert now == shards | {SUMS: now[SUMS]}  # the file of sums is new, all others are the same to the bit
    assert len(shards) == 8  # 2 + 1 tars with their indices, 2 manifests


def test_a_cache_of_the_code_before_opens_and_is_of_the_same_views(before: Path) -> None:
    shards = Shards.open(before / "shards" / "train")
    cache = open_cache(before / "cache")
    require_views(cache, shards, RECIPE, torch.device("cpu"), before / "cache")
    for block in shards.blocks:
        found = cache.read(cache.block(block.index), 1)
        assert fake.same(found, fake.expected(cache.layout, block, 1))
