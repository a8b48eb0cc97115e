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
        data = {
            "source": "folder",
            "shard_size": SIZE,
            "block": 4,
            "seed": seed,
            "val_share": self.share,
            "max_quarantined": 9,
        }
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
    assert "packed in a new order" not in project.repro()
    again = project.keys()
    project.repro("--reorder")
    assert project.keys() == again


def test_a_clone_keeps_the_order_that_the_pool_knows(project: Project) -> None:
    assert "a new order of" in project.repro()
    project.add(range(200, 206))
    assert "a new order of" not in project.repro()
    grown = project.keys(), project.keys("val"), (project.work / "index.tsv").read_bytes()
    shutil.rmtree(project.work)
    assert "the images keep the order of" in project.repro()
    assert (project.keys(), project.keys("val"), (project.work / "index.tsv").read_bytes()) == grown
    shutil.rmtree(project.work)
    shutil.rmtree(project.root / "pool")
    assert "a new order of" in project.repro() and project.keys() != grown[0]
    [copy] = (project.root / "pool/orders").iterdir()
    copy.write_bytes(copy.read_bytes()[:-9])
    (project.work / "index.tsv").unlink()
    damaged = project.index()
    assert damaged.exit_code == 3 and str(copy) in damaged.output and "--reorder" in damaged.output


def test_an_emptied_image_loses_its_place_and_one_that_was_empty_is_new(project: Project) -> None:
    project.repro()
    keys, hashes, held = project.keys(), project.split().hashes, len(project.keys("val"))
    (emptied,) = project.data.rglob(f"{keys[1].rpartition('/')[2]}.jpg")
    emptied.write_bytes(b"")
    project.repro()
    assert project.keys() == [keys[0], keys[-1], *keys[2:-1]]
    assert project.split().hashes[1:-1] == hashes[1:-1]
    project.add(range(300, 308))
    added = [path for path in project.data.rglob("30?.jpg") if path.parent.parent.name != "val"]
    for path in added:
        path.write_bytes(b"")
    project.repro()
    project.add(range(300, 308))
    project.repro()
    assert len(project.keys("val")) == held  # with a share, a quarter of 67 is as many as of 60


def test_labels_that_are_missing_are_refused_and_the_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))
    names = [f"train/n0000000{number % 2}/{number}.jpg" for number in range(9)] + ["val/one.jpg", "val/two.jpg"]
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(picture(0))
    labels, place = tmp_path / "data/val_labels.txt", tmp_path / "work/index.tsv"
    labels.write_text("one.jpg n00000000\ntwo.jpg n00000001\n")
    (tmp_path / "params.yaml").write_text(json.dumps({"data": {"source": "imagenet"}}))
    options = ["--params", str(tmp_path / "params.yaml"), "--out", str(place)]
    assert CliRunner().invoke(index.main, options).exit_code == 0
    content = place.read_bytes()
    labels.write_text("one.jpg n00000000\n")
    (tmp_path / "data/train/n00000000/9.jpg").write_bytes(picture(9))
    refused = CliRunner().invoke(index.main, options)
    assert refused.exit_code == 2 and "'val/two.jpg': no label in the label list" in refused.output
    assert place.read_bytes() == content
