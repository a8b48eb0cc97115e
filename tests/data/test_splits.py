"""Splits: a share that is held out, labels that no training image has, images that are in both."""

import tarfile
from pathlib import Path

import pytest

from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, expected_classes
from tests.support.inputs import FOLDER, PNG, TARS, index_and_shard, member, packed, picture, read, refused, write_tar


def labelled(*labels: int, at: int = 0) -> list[tuple[tarfile.TarInfo, bytes]]:
    rows = [(f"k{at + i}", label) for i, label in enumerate(labels)]
    return [m for key, label in rows for m in (member(f"{key}.cls", b"%d" % label), member(f"{key}.png", PNG[0]))]


@pytest.mark.parametrize(
    ("train", "val", "sentence"),
    [
        ((1, 2, 3), (1, 2), "label without a training image: 0 of 0..3; labels seem to count from 1: count them from 0"),
        ((0, 1, 2, 65000), (0,), "3-64999 of 0..65000; a stray label? label 65000 is that of 1 image, first 'train/a.tar: k3'"),
        ((0, 1, 2), (0, 3), "3 of 0..3; val has images of 3 ('val/a.tar: k1'): correct or remove them"),
        ((0, 1, 3, 4), (0,), "2 of 0..4; add training images of '2', or number the labels without gaps"),
    ],
)  # fmt: skip
def test_a_label_without_a_training_image_is_refused_with_the_likely_reason(
    tmp_path: Path, train: tuple[int, ...], val: tuple[int, ...], sentence: str
) -> None:
    write_tar(tmp_path / "train" / "a.tar", labelled(*train))
    write_tar(tmp_path / "val" / "a.tar", labelled(*val))
    code, text = refused(TARS, tmp_path)
    assert code == 2 and sentence in text


def test_a_share_of_a_folder_without_splits_is_held_out_the_same_way_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"ant": 10, "bee": 5, "cat": 1}
    for name, count in counts.items():
        for row in range(count):
            picture(tmp_path / "data" / name / f"{row}.png")
    code, text = refused(FOLDER, tmp_path / "data")
    assert (
        code == 2
        and "train/ is missing" in text
        and "where 'ant', 'bee', 'cat' in it are classes, set data.val_share" in text
    )
    results = index_and_shard(tmp_path / "data", "source: folder, val_share: 0.2", monkeypatch)
    assert [result.exit_code for result in results] == [0, 0], results[-1].output
    assert "val has no images of 1 of 3 classes ('cat')" in results[1].output
    split = {name: Shards.open(tmp_path / "work" / "shards" / name) for name in ("train", "val")}
    keys = {name: {key for block in there.blocks for key in there.keys(block)} for name, there in split.items()}
    assert {name: there.manifest.val_share for name, there in split.items()} == {"train": 0.2, "val": 0.2}
    assert sorted(key.split("/")[0] for key in keys["val"]) == ["ant", "ant", "bee"]
    assert len(keys["train"]) == 13 and not keys["train"] & keys["val"]
    config = FOLDER.model_copy(update={"val_share": 0.2})
    assert expected_classes(config, {"DATA_ROOT": str(tmp_path / "data")}) == 3
    (tmp_path / "more").mkdir()
    (tmp_path / "data").rename(tmp_path / "more" / "train")  # train/ without val/ is the same
    again = read(config, tmp_path / "more")[1]
    assert {name: {entry.key for entry in part.entries} for name, part in again.items()} == keys
    other = read(config.model_copy(update={"seed": 1}), tmp_path / "more")[1]["val"].entries
    assert {entry.key for entry in other} != keys["val"] and len(other) == 3


def test_a_share_of_tars_without_val_is_held_out_and_two_vals_are_refused(tars: Path, folder: Path) -> None:
    share = {"val_share": 0.5}
    for config, root in ((TARS, tars), (FOLDER, folder)):
        code, text = refused(config.model_copy(update=share), root)
        assert code == 2 and "val_share is set as well" in text
    (tars / "val" / "a.tar").unlink()
    classes, splits = read(TARS.model_copy(update=share), tars)
    assert len(splits["train"].entries) == len(splits["val"].entries) == 3 == len(classes)
    with pytest.raises(ValueError, match="source digits has its own validation images"):
        DataConfig(source="digits", val_share=0.1)


def test_a_class_without_validation_images_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        picture(folder / "train" / name / "1.png")
    (folder / "val" / "cat").mkdir()
    classes, splits = read(FOLDER, folder)
    assert classes == ("ant", "bee", "cat", "dog") and len(splits["val"].entries) == 4
    assert "warning: val has no images of 2 of 4 classes ('cat', 'dog')" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["link", "copies"])
def test_images_that_are_in_both_splits_are_counted(folder: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    if how == "link":
        for path in sorted((folder / "val").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (folder / "val").rmdir()
        (folder / "val").symlink_to("train")
    else:
        copy = folder / "val" / "ant" / "3.png"
        copy.write_bytes((folder / "train" / "bee" / "1.png").read_bytes())
    packed(FOLDER, folder, folder.parent / "out")
    said = capsys.readouterr().out
    twins = "4 of 4" if how == "link" else "1 of 5"
    first = "val/ant/1.png" if how == "link" else "val/ant/3.png"
    assert f"warning: {twins} validation images are training images as well (the first: '{first}')" in said
