"""Test sets besides the validation split: other images, other labels, other crops."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from timm.data.real_labels import RealLabelsImagenet

from pipeline.data.listing import File
from pipeline.data.pack import pack_splits
from pipeline.data.sources import DataConfig
from pipeline.data.test_sets import SetConfig, list_set, read_set, real_labels
from pipeline.evaluation.sets import on_real_labels
from pipeline.runtime.errors import IntegrityError, UsageError
from stages import test_set
from tests.support.answers import answered
from tests.support.photos import make_photo_folder

CLASSES = ("brick", "cat", "coffee", "flower", "rocket")
FOLDER = SetConfig(source="folder")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_photo_folder(tmp_path / "all", per_class=3)
    return tmp_path / "all/val"


def test_a_folder_may_hold_some_of_the_classes_by_name_or_by_number(photos: Path) -> None:
    shutil.rmtree(photos / "brick")
    split = read_set(FOLDER, photos, list_set(FOLDER, photos), CLASSES)
    assert [entry.label for entry in split.entries] == [1, 1, 2, 2, 3, 3, 4, 4]
    for number, name in enumerate(CLASSES[1:], start=1):
        (photos / name).rename(photos / str(number))
    assert read_set(FOLDER, photos, list_set(FOLDER, photos), CLASSES).entries[0].label == 1
    many = tuple(f"n{number:08d}" for number in range(1000))
    (photos / "4").rename(photos / "10")  # "10" sorts before "2", and is class 10 all the same
    labels = {entry.label for entry in read_set(FOLDER, photos, list_set(FOLDER, photos), many).entries}
    assert labels == {1, 2, 3, 10}


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("0", "1", "2"), ("1", "2", "3")),  # some are names, and place 0 would be class 1
        (("01", "02", "03"), ("1", "2", "3", "4")),  # numbers on both sides
        (("cat", "0", "1"), CLASSES),
        (("1", "01", "2"), CLASSES),  # one place twice
        (("3", "4", "5"), CLASSES),  # place 5 of 5
    ],
)
def test_numbers_that_may_be_names_or_places_are_refused_once_per_folder(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    listed = [File(f"./{name}/{image}.jpg", 9, "1") for name in folders for image in range(5)]
    with pytest.raises(UsageError, match="no student knows a class") as refusal:
        read_set(FOLDER, tmp_path, listed, classes)
    unknown = set(folders) - set(classes)
    assert str(refusal.value).count("no student knows") == str(refusal.value).count("5 images:") == len(unknown)


def test_places_are_said_with_an_example_and_names_come_first(tmp_path: Path, capsys: Any) -> None:
    listed = [File(f"./{name}/1.jpg", 9, "1") for name in ("002", "1")]
    assert [entry.label for entry in read_set(FOLDER, tmp_path, listed, CLASSES).entries] == [2, 1]
    assert "'002' is 'coffee'" in capsys.readouterr().out
    assert [entry.label for entry in read_set(FOLDER, tmp_path, listed, ("1", "002")).entries] == [1, 0]
    assert capsys.readouterr().out == ""


def test_unknown_classes_and_unusable_files_are_refused(photos: Path) -> None:
    (photos / "cat").rename(photos / "zebra")
    with pytest.raises(UsageError, match="no student knows a class 'zebra'; their classes are brick, cat"):
        read_set(FOLDER, photos, list_set(FOLDER, photos), CLASSES)
    (photos / "zebra").rename(photos / "cat")
    (photos / "cat" / "cut.jpg").write_bytes(b"")
    with pytest.raises(IntegrityError, match="1 unusable files"):
        read_set(FOLDER, photos, list_set(FOLDER, photos), CLASSES)
    allowed = SetConfig(source="folder", max_quarantined=1)
    split = read_set(allowed, photos, list_set(allowed, photos), CLASSES)
    assert len(split.entries) == 10 and len(split.quarantined) == 1


def test_a_missing_test_set_is_named_with_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_photo_folder(tmp_path / "all", per_class=3)
    pieces = DataConfig(source="folder", shard_size=8, block=4)
    split = read_set(FOLDER, tmp_path / "all/val", list_set(FOLDER, tmp_path / "all/val"), CLASSES)
    pack_splits(pieces, CLASSES, {"val": split}, tmp_path / "work/shards", 1)
    (tmp_path / "params.yaml").write_text("test_sets: {other: {source: folder}}\n")
    monkeypatch.setenv("TEST_ROOT", str(tmp_path))
    result = CliRunner().invoke(test_set.main, ["--test-set", "other"])
    assert result.exit_code == 2 and "the directory of test set 'other' is missing" in result.output
    monkeypatch.delenv("TEST_ROOT")
    result = CliRunner().invoke(test_set.main, ["--test-set", "other"])
    assert result.exit_code == 2 and "TEST_ROOT is not set" in result.output
    (tmp_path / "params.yaml").write_text("test_sets: {other: {labels: real}, own: {}}\n")
    result = CliRunner().invoke(test_set.main, ["--test-set", "other"])
    assert result.exit_code == 2 and "is not of ImageNet's validation split, for which alone there are" in result.output
    assert not (tmp_path / "work/test_sets/other").exists()
    assert CliRunner().invoke(test_set.main, ["--test-set", "own"]).exit_code == 0


def keys_of_imagenet(classes: int = 1000) -> Any:
    """A split of ImageNet's validation keys, as far as labels need one."""
    keys = [f"n00000000/ILSVRC2012_val_{number:08d}" for number in range(1, 50_001)]
    return SimpleNamespace(root=Path("val"), blocks=(0,), classes=("a",) * classes, keys=lambda block: keys)


def test_real_labels_are_timms() -> None:
    found = answered(50_000, 4, seed=0, heads=1)
    files = [f"{key}.JPEG" for key in keys_of_imagenet().keys(0)]
    theirs = RealLabelsImagenet(files)
    labels = real_labels(keys_of_imagenet())
    assert labels == [frozenset(theirs.real_labels[Path(name).name]) for name in files]
    right = [int(found.hard["class"][i]) in those for i, those in enumerate(labels) if those]
    ours = on_real_labels(found, keys_of_imagenet())
    assert ours["heads"]["class"]["top1"] == pytest.approx(100 * np.mean(right)) and ours["samples"] == len(right)


def test_a_part_of_imagenet_has_no_real_labels() -> None:
    """Its images have ImageNet's names, and its classes other numbers."""
    with pytest.raises(UsageError, match=r"val: a split of 100 classes is not of ImageNet's validation split"):
        real_labels(keys_of_imagenet(classes=100))
