"""Images that stay keep their places in the shards, and their split: a change writes few shards anew."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.data.index_file import Order, read_listing, read_order
from pipeline.data.shards import Shards
from stages import index, shard
from tests.support.pictures import jpeg

SIZE = 8  # images in a shard


def picture(seed: int) -> bytes:
    return jpeg(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8))


class Project:
    """A folder of images with its params.yaml; ``repro`` is what DVC runs, with the order of the last run."""

    def __init__(self, root: Path, share: float | None) -> None:
        self.root, self.data, self.work = root, root / "data", root / "work"
        self.share = share
        self.write_params(seed=0)

    def write_params(self, seed: int) -> None:
        data = {"source": "folder", "shard_size": SIZE, "block": 4, "seed": seed, "val_share": self.share}
        (self.root / "params.yaml").write_text(json.dumps({"data": data}))

    def add(self, numbers: range, split: str = "train") -> None:
        for number in numbers:
            folder = self.data / ("" if self.share else split) / f"class_{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03d}.jpg").write_bytes(picture(number))

    def index(self, *options: str) -> Result:
        params = str(self.root / "params.yaml")
        return CliRunner().invoke(index.main, ["--params", params, "--out", str(self.work / "index.tsv"), *options])

    def repro(self, *options: str) -> str:
        found = self.index(*options)
        assert found.exit_code == 0, found.output
        shutil.rmtree(self.work / "shards", ignore_errors=True)  # as DVC does
        where = ["--index", str(self.work / "index.tsv"), "--out", str(self.work / "shards")]
        packed = CliRunner().invoke(shard.main, ["--params", str(self.root / "params.yaml"), *where])
        assert packed.exit_code == 0, packed.output
        return found.output

    def split(self, name: str = "train") -> Shards:
        return Shards.open(self.work / "shards" / name)

    def keys(self, name: str = "train") -> list[str]:
        return [key for block in self.split(name).blocks for key in self.split(name).keys(block)]


@pytest.fixture(params=[None, 0.25], ids=["val", "share"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("DISTIL_WORKERS", "0")
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))
    made = Project(tmp_path, request.param)
    made.add(range(60))
    if request.param is None:
        made.add(range(100, 104), "val")
    return made


def test_new_images_follow_and_only_the_last_short_shard_is_written_again(project: Project) -> None:
    project.repro()
    keys, hashes, val = project.keys(), project.split().hashes, project.keys("val")
    content = (project.work / "index.tsv").read_bytes()
    project.repro()
    assert (project.work / "index.tsv").read_bytes() == content
    project.add(range(200, 206))
    assert "new training images follow" in project.repro()
    grown = project.keys()
    assert grown[: len(keys)] == keys and len(grown) + len(project.keys("val")) == len(keys) + len(val) + 6
    whole = len(keys) // SIZE
    assert project.split().hashes[:whole] == hashes[:whole]
    assert [key for key in project.keys("val") if key in val] == val  # an image's split is kept


def test_the_last_images_take_the_places_of_those_that_are_gone(project: Project) -> None:
    project.repro()
    keys, hashes = project.keys(), project.split().hashes
    gone = keys[SIZE + 1]
    (found,) = project.data.rglob(f"{gone.rpartition('/')[2]}.jpg")
    found.unlink()
    assert "1 of those are gone" in project.repro()
    assert project.keys() == [*keys[: SIZE + 1], keys[-1], *keys[SIZE + 2 : -1]]
    now = project.split().hashes
    assert [now[s] == hashes[s] for s in range(len(now) - 1)] == [s != 1 for s in range(len(now) - 1)]
    found.write_bytes(picture(7))  # it comes back with other bytes
    project.repro()
    assert project.keys()[-1] == gone and set(project.keys()) == set(keys)


def test_a_new_order_another_seed_and_a_damaged_index(project: Project) -> None:
    project.repro()
    keys, place = project.keys(), project.work / "index.tsv"
    project.add(range(200, 206))
    project.repro()
    grown = project.keys()
    project.repro("--reorder")
    assert project.keys() != grown and set(keys) <= set(project.keys())
    content = place.read_bytes()
    train = len(project.keys())
    assert read_order(place, "folder") == Order(0, project.share, train)
    assert len(read_listing(place, "folder")) == train + len(project.keys("val"))
    for damage in (content[:-20], content.replace(b"[0, ", b"[x, ", 1), content + content):
        place.write_bytes(damage)
        found = project.index()
        assert found.exit_code == 3 and "or start a new one: python -m stages.index --reorder" in found.output
        assert place.read_bytes() == damage
    place.write_bytes(content)
    project.write_params(seed=1)
    assert "packed in a new order" in project.repro()
    place.write_text("#offline-deit index 1 folder\n")  # of an earlier version: its shards stood in keyed order
    project.write_params(seed=0)
    project.repro()
    assert project.index().exit_code == 0
