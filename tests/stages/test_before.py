"""What earlier code wrote is still whole and still the same: shards, a cache, a checkpoint.

The cache holds two views in one group, codec u8, of ``tests.support.fake_teacher``'s rows. The checkpoint is of a small model
after three steps of AdamW with an average, one epoch of two steps behind it."""

import tarfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.base.files import sha256_file
from pipeline.base.sums import SUMS
from pipeline.base.weights import state_hash
from pipeline.cache.identity import require_views
from pipeline.cache.reader import open_cache
from pipeline.data.digits import load_pixels
from pipeline.data.images import encode_png
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.runtime.config import validate
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import make_average
from pipeline.training.state import State
from pipeline.training.step import Stepper
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
    for name in ("work", "run"):
        with tarfile.open(Path(__file__).parents[1] / "before" / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
    return tmp_path


def hashes(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_images_give_the_very_shards_of_the_code_before(before: Path) -> None:
    make_folder(before / "data")
    classes, splits = read_splits(CONFIG, before / "data", scan(CONFIG, before / "data"))
    pack_splits(CONFIG, classes, splits, before / "now", 1)
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


def test_a_checkpoint_of_the_code_before_is_taken_over_with_its_step_weights_and_log(before: Path) -> None:
    optimizer = {"name": "adamw", "lr": 0.01, "scale_lr": False, "weight_decay": 0.05, "ema_decay": 0.9}
    config = validate(TrainConfig, {"epochs": 1.0, "batch": 32, "optimizer": optimizer}, "training")
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 5))
    stepper = Stepper(model, config, torch.device("cpu"))
    state = State("student", before / "run", stepper, make_average(model, config.optimizer))
    assert state.restore() == 3
    assert state_hash(model.state_dict()) == "ceff083f0a153fe4a249db3c96133edcf111198301a9bd87c0b18f05257f6e00"
    average = state_hash(state.average.module.state_dict())
    assert average == "c756b5fdef6acef0eab65b456d050b1a1fc4344ec388c852fa5fb1e07f38878c"
    assert [(row["epoch"], row["step"], row["loss"]) for row in state.rows] == [(1.0, 2, 1.622213065624237)]
    assert {float(moments["step"]) for moments in stepper.optimizer.state.values()} == {3.0}
    assert int(state.sums["steps"]) == 1 and int(state.sums["samples"]) == 32  # the third step, of the epoch in work
