"""What people's folders and tars really hold: accepted where habit makes it plain, else refused with what was found."""

import json
import os
import tarfile
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.data.pack import pack
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, expected_classes, find_root, read_splits, scan
from pipeline.runtime.errors import PipelineError
from stages import index, shard
from tests.data.test_sources import _cifar
from tests.data.test_webdataset_tars import PNG, member, write_tar
from tests.support.inputs import FOLDER, IMAGENET, TARS, picture


def read(config: DataConfig, root: Path) -> tuple[tuple[str, ...], dict]:
    return read_splits(config, root, scan(config, root))


def refused(config: DataConfig, root: Path) -> tuple[int, str]:
    with pytest.raises(PipelineError) as caught:
        read(config, root)
    return caught.value.exit_code, str(caught.value)


def packed(config: DataConfig, root: Path, out: Path) -> Shards:
    classes, splits = read(config, root)
    pack(config, classes, splits, out, 1)
    return Shards.open(out / "train")


def stages(root: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """``index`` and ``shard`` through the command line, with output beside the data."""
    work = root.parent / "work"
    monkeypatch.setenv("DATA_ROOT", str(root))
    (root.parent / "params.yaml").write_text(f"data: {{{config}, shard_size: 4, block: 2}}")
    params = ["--params", str(root.parent / "params.yaml")]
    listing = ["--out", str(work / "index.tsv")], ["--index", str(work / "index.tsv"), "--out", str(work / "shards")]
    runner = CliRunner()
    return [runner.invoke(command.main, [*params, *rest]) for command, rest in zip((index, shard), listing)]


# Text files of people


CODINGS = {
    "plain": "ant\nbée\ncat\n".encode(),
    "byte order mark": "ant\nbée\ncat".encode("utf-8-sig"),
    "Windows": "ant\r\nbée\r\ncat\r\n".encode(),
    "old Mac": "ant\rbée\rcat\r".encode(),
    "empty lines and white space at the end": "ant \n\tbée\ncat\n\n \n".encode(),
    "Latin-1": "ant\nbée\ncat\n".encode("latin-1"),
    "UTF-16": "ant\r\nbée\r\ncat".encode("utf-16"),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_class_names_are_read_as_their_author_meant_them(
    tars: Path, coding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tars / "classes.txt").write_bytes(CODINGS[coding])
    assert read(TARS, tars)[0] == ("ant", "bée", "cat")
    assert ("line 2 is not UTF-8, so it is read as Latin-1" in capsys.readouterr().out) == (coding == "Latin-1")


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (b"ant\nbee\nant\n", 2, "'classes.txt': 'ant' stands in line 1 and in line 3"),
        ("caf\u00e9\nbee\ncafe\u0301\n".encode(), 2, "stands in line 1 and in line 3"),
        (b"ant\n\ncat\n", 2, "'classes.txt': line 2 is empty; expected a name, the one of label 1"),
        (b"\n\n", 2, "'classes.txt': names no class"),
        (b"ant\nbee", 2, "'classes.txt' names 2 classes, but 'train/a.tar: s2' has label 2; labels count from 0"),
        (b"ant\nbee\ncat\ndog\n", 2, "label without a training image: 3 of 0..3; add training images of 'dog'"),
        (b"ant\0\x01", 3, "'classes.txt': not a text file"),
        (b"ant\nb\x81\xff\n", 3, "'classes.txt': line 2: neither UTF-8 nor Latin-1"),
    ],
)
def test_class_names_that_can_not_be_meant_are_refused_by_line(
    tars: Path, content: bytes, code: int, sentence: str
) -> None:
    (tars / "classes.txt").write_bytes(content)
    found, text = refused(TARS, tars)
    assert found == code and sentence in text


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for wnid in ("n00000001", "n00000002"):
        picture(tmp_path / "train" / wnid / f"{wnid}_1.JPEG", "JPEG")
    for row in (1, 2):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{row:08d}.JPEG", "JPEG")
    return tmp_path


def test_every_label_list_is_read_by_the_same_rules(flat: Path) -> None:
    rows = [f"ILSVRC2012_val_{row:08d}.JPEG,n0000000{row}" for row in (1, 2)]
    (flat / "val" / "valprep.sh").write_text("#!/bin/bash")
    (flat / "val_labels.txt").write_bytes("\r\n".join([*rows, "", ""]).encode("utf-8-sig"))
    assert [entry.label for entry in read(IMAGENET, flat)[1]["val"].entries] == [0, 1]
    (flat / "val_labels.txt").write_text("\n".join([*rows, rows[0]]))
    code, text = refused(IMAGENET, flat)
    assert code == 2 and "'ILSVRC2012_val_00000001.JPEG' stands in line 1 and in line 3" in text
    (flat / "val_labels.txt").unlink()
    kaggle = "\r\n".join(["ImageId,PredictionString", *(f'"{row.replace(".JPEG", "")} 1 2 3 4"' for row in rows)])
    (flat / "LOC_val_solution.csv").write_bytes(kaggle.encode("utf-16"))
    assert [entry.label for entry in read(IMAGENET, flat)[1]["val"].entries] == [0, 1]


# Labels


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


@pytest.mark.parametrize("text", [b"2\r\n", b" 2 ", b"2\n", "\ufeff2".encode(), b"02"])
def test_a_label_is_its_number_whatever_the_editor_put_around_it(tars: Path, text: bytes) -> None:
    write_tar(tars / "train" / "b.tar", [member("x.cls", text), member("x.png", PNG[0])])
    assert read(TARS, tars)[1]["train"].entries[-1].label == 2


def test_a_label_that_is_none_is_shown(tars: Path) -> None:
    members = [
        member("x.cls", b"1.5\r\n"),
        member("x.png", PNG[0]),
        member("y.png", PNG[0]),
        member("y.json", b"[" * 10**5),
    ]
    write_tar(tars / "train" / "b.tar", members)
    code, text = refused(TARS, tars)
    assert code == 3 and r"expected a whole number from 0 to 999999, found b'1.5\r\n'" in text
    assert "found in .json ValueError: lists or objects nested" in text


# Names


def test_other_fields_of_a_sample_stand_beside_its_image_and_no_key_with_a_dot_is_lost(
    tars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = [member("x.cls", b"1"), member("x.png", PNG[0])]
    extra = [
        member("x.seg.png", PNG[1]),
        member("x.seg.json", b"[]"),
        member("x.depth.tif", b"d"),
        member("x.tif", b"t"),
    ]
    apple = [member("._x.png", b"a"), member(".DS_Store", b"d")]
    write_tar(tars / "train" / "b.tar", [*apple, *sample[:1], *extra[:1], *sample[1:], *extra[2:]])
    entries = read(TARS, tars)[1]["train"].entries
    assert [entry.path for entry in entries[-2:]] == ["train/a.tar: s5", "train/b.tar: x"] and entries[-1].kind == "png"
    assert "2 files left aside, not named as images: 'train/b.tar: ._x.png'" in capsys.readouterr().out
    own = [member("x.v1.cls", b"1"), member("x.v1.png", PNG[1])]
    write_tar(tars / "train" / "b.tar", [*sample, *own])
    code, text = refused(TARS, tars)
    assert code == 2 and "'train/b.tar: x.v1.png': a dot inside the key" in text


@pytest.mark.parametrize("other", ["cafe\u0301", "CAFÉ", "café "])
def test_a_class_that_only_looks_the_same_is_named_with_what_differs(folder: Path, other: str) -> None:
    picture(folder / "train" / "café" / "1.png")
    picture(folder / "val" / other / "1.png")
    code, text = refused(FOLDER, folder)
    assert code == 2 and f"there is no class {other!r} in train/; 'café' is there" in text
    assert ascii("café") in text and ascii(other) in text
    assert ("Unicode form: " in text) == (unicodedata.normalize("NFC", other) == "café")


def test_an_image_and_a_label_under_names_that_look_the_same_are_named_with_what_differs(tars: Path) -> None:
    write_tar(
        tars / "train" / "b.tar", [member("caf\u00e9.cls", b"1"), member("cafe\u0301.png", PNG[0])], tarfile.PAX_FORMAT
    )
    code, text = refused(TARS, tars)
    assert code == 3 and r"which only has another Unicode form: 'cafe\u0301' and not 'caf\xe9'" in text


def test_one_class_in_two_unicode_forms_is_refused(folder: Path) -> None:
    for name in ("café", "cafe\u0301"):
        picture(folder / "train" / name / "1.png")
    code, text = refused(FOLDER, folder)
    assert code == 2 and r"one name in two Unicode forms, 'cafe\u0301' and 'caf\xe9'" in text


def test_files_of_systems_and_people_are_named_once_and_counted_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ant/.DS_Store", "ant/Thumbs.db", "bee/notes.txt", "valprep.sh", "ant/._1.png", "ant/Icon\r"):
        (folder / "train" / name).write_text("x")
    result = stages(folder, "source: folder, expected: {train: 4, val: 4}", monkeypatch)
    assert [one.exit_code for one in result] == [0, 0], result[1].output
    assert "6 files left aside, not named as images: " in result[0].output and r"'train/ant/Icon\r'" in result[0].output
    manifest = json.loads((folder.parent / "work" / "shards" / "train" / "manifest.json").read_text())
    assert manifest["samples"] == 4 and manifest["quarantined"] == []
    assert "notes.txt" not in (folder.parent / "work" / "index.tsv").read_text()


# Splits


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
    results = stages(tmp_path / "data", "source: folder, val_share: 0.2", monkeypatch)
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


# Files that changed after the listing


def test_a_file_replaced_by_another_of_the_same_size_is_refused(folder: Path) -> None:
    listed = scan(FOLDER, folder)
    victim = folder / "train" / "ant" / "1.png"
    stamp = victim.stat().st_mtime_ns
    victim.write_bytes(victim.read_bytes())
    os.utime(victim, ns=(stamp + 1, stamp + 1))
    classes, splits = read_splits(FOLDER, folder, listed)
    with pytest.raises(PipelineError, match=r"'train/ant/1.png': it was written again since the index was made; run: "):
        pack(FOLDER, classes, splits, folder.parent / "out", 1)
    os.utime(victim, ns=(stamp, stamp))
    pack(FOLDER, classes, splits, folder.parent / "out", 1)


def test_a_tar_or_a_label_list_that_changed_since_the_listing_is_refused(tars: Path) -> None:
    (tars / "classes.txt").write_text("ant\nbee\ncat\n")
    listed = scan(TARS, tars)
    classes, splits = read_splits(TARS, tars, listed)
    for name in ("train/a.tar", "classes.txt"):
        status = (tars / name).stat()
        os.utime(tars / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(PipelineError, match=f"'{name}': it was written again since the index was made"):
            read_splits(TARS, tars, listed)
        if name == "train/a.tar":
            with pytest.raises(PipelineError, match="it was written again"):
                pack(TARS, classes, splits, tars / "out", 1)
        os.utime(tars / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    read_splits(TARS, tars, listed)


def test_a_cifar_batch_that_changed_since_the_listing_is_refused(tmp_path: Path) -> None:
    config = DataConfig(source="cifar10", shard_size=4, block=2)
    directory = _cifar(tmp_path)
    listed = scan(config, tmp_path)
    os.utime(directory / "test_batch", ns=(0, 1))
    with pytest.raises(PipelineError, match="'cifar-10-batches-py/test_batch': it was written again since the index"):
        read_splits(config, tmp_path, listed)


def test_a_root_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert find_root("folder", {"DATA_ROOT": "~/pictures"}) == Path("/home/someone/pictures")
    with pytest.raises(PipelineError, match=r"DATA_ROOT: no home directory is known for '~nobody-of-that-name/x'"):
        find_root("folder", {"DATA_ROOT": "~nobody-of-that-name/x"})
