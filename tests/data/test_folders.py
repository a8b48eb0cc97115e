"""Folders of classes: every image and every problem of a tree is seen, whatever people name their files."""

import json
import multiprocessing
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import pytest

from pipeline.data.pack import read_entry
from pipeline.data.sources import DataConfig, read_splits, scan
from tests.support.inputs import FOLDER, IMAGENET, index_and_shard, picture, refused
from tests.support.photos import PICTURES, make_photo_folder


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            picture(tmp_path / split / name / "1.jpg")
            picture(tmp_path / split / name / "2.JPEG")
    return tmp_path


def test_photographs_of_every_kind_come_with_sorted_classes_and_content_keys(tmp_path: Path) -> None:
    make_photo_folder(tmp_path, 7)
    config = DataConfig(source="folder", classes=5)
    classes, splits = read_splits(config, tmp_path, scan(config, tmp_path))
    assert classes == tuple(sorted(PICTURES))
    assert len(splits["train"].entries) == 35 and len(splits["val"].entries) == 10
    entry = splits["train"].entries[8]
    assert (entry.key, classes[entry.label], entry.kind) == ("cat/cat_001", "cat", "jpg")
    assert read_entry(entry) == (tmp_path / "train" / "cat" / "cat_001.JPEG").read_bytes()
    assert {entry.kind for entry in splits["train"].entries} == {"jpg", "png", "webp"}


def test_all_problems_of_a_tree_are_listed_at_once(jpegs: Path) -> None:
    train = jpegs / "train"
    (train / "empty").mkdir()
    (jpegs / "val" / "empty").mkdir()
    picture(jpegs / "val" / "stranger" / "1.jpg")
    (train / "ant" / "loop").symlink_to(train)
    (train / "twin").symlink_to(train / "bee")
    (train / "bee" / "gone.jpg").symlink_to(jpegs / "nowhere.jpg")
    (train / "bee" / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(train / "bee" / "pipe.jpg")
    (train / "bee" / "notes.txt").write_text("x")
    (train / "bee" / ".DS_Store").write_text("x")
    (train / "bee" / "new.heic").write_text("x")
    (train / "bee" / "zero.jpg").touch()
    picture(train / "loose.jpg")
    picture(train / "bee" / "line\nbreak.jpg")
    (Path(os.fsdecode(os.fsencode(train) + b"/bee/\xff.jpg"))).write_bytes(b"x")
    code, text = refused(FOLDER, jpegs)
    assert code == 3
    for piece in (
        "'train/empty': class without images",
        "'val/stranger': there is no class 'stranger' in train/",
        "'train/ant/loop': the same directory as 'train'",
        "'train/twin': the same directory as 'train/bee'",
        "'train/bee/gone.jpg': can't be opened",
        "'train/bee/self.jpg': can't be opened",
        "'train/bee/pipe.jpg': not a regular file",
        "'train/bee/new.heic': a format that is not read; convert it to one of .jpg,",
        "'train/bee/zero.jpg': empty file",
        "'train/loose.jpg': an image outside any class directory",
        "'train/bee/line\\nbreak.jpg': a name with control characters",
        "'train/bee/\\udcff.jpg': a name with control characters or not in UTF-8",
        "2 unusable files, data.max_quarantined is 0",
    ):
        assert piece in text, piece
    text.encode("utf-8")
    assert "notes.txt" not in text and ".DS_Store" not in text


def test_unreadable_files_and_directories_are_named(jpegs: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        shutil.copytree(jpegs, root / "data")
        (root / "data").chmod(0o755)
        (root / "data" / "train" / "ant" / "1.jpg").chmod(0)
        (root / "data" / "val" / "bee").chmod(0)
        # root reads everything, so a root who runs the tests does it as nobody
        as_nobody = {"initializer": os.setuid, "initargs": (65534,)} if os.getuid() == 0 else {}
        with multiprocessing.get_context("fork").Pool(1, **as_nobody) as pool:
            code, text = pool.apply(refused, (FOLDER, root / "data"))
        (root / "data" / "val" / "bee").chmod(0o755)
    assert code == 3
    assert "'train/ant/1.jpg': unreadable file" in text and "'val/bee': unreadable directory" in text


def test_a_missing_split_is_named(jpegs: Path) -> None:
    (jpegs / "val").rename(jpegs / "test")
    missing = "val/ is missing: expected val/<class>/<image>; or set data.val_share to hold out a share of all images"
    assert refused(FOLDER, jpegs) == (2, f"{jpegs}: 1 problem:\n  - {missing}")


def test_allowed_unusable_files_are_kept_apart_with_their_reason(jpegs: Path) -> None:
    (jpegs / "train" / "bee" / "empty.jpg").touch()
    config = FOLDER.model_copy(update={"max_quarantined": 1})
    _, splits = read_splits(config, jpegs, scan(config, jpegs))
    assert [path for path, _ in splits["train"].quarantined] == ["train/bee/empty.jpg"]


def test_wrong_counts_are_refused_with_both_numbers(jpegs: Path) -> None:
    config = DataConfig.model_validate(
        {"source": "folder", "classes": 3, "expected": {"train": 4, "val": 5}, "shard_size": 4, "block": 2}
    )
    code, text = refused(config, jpegs)
    assert code == 2
    assert "data.classes is 3, but the source has 2" in text
    assert "data.expected.val is 5, but the source has 4" in text and "expected.train" not in text


def test_two_images_that_differ_in_their_suffix_alone_are_two_samples(jpegs: Path) -> None:
    for name in ("1.png", "1.jpeg", "1.jpg.jpg"):
        picture(jpegs / "train" / "ant" / name)
    _, splits = read_splits(FOLDER, jpegs, scan(FOLDER, jpegs))
    keys = {entry.path: entry.key for entry in splits["train"].entries}
    assert keys["train/ant/1.jpg"] == "ant/1~jpg" and keys["train/ant/1.png"] == "ant/1~png"
    assert keys["train/ant/1.jpeg"] == "ant/1~jpeg" and keys["train/ant/1.jpg.jpg"] == "ant/1%2Ejpg"
    assert keys["train/ant/2.JPEG"] == "ant/2" and len(set(keys.values())) == 7


def test_one_class_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "ant" / "1.jpg")
    code, text = refused(FOLDER, tmp_path)
    assert code == 2 and "only one class, 'ant'" in text


def test_imagenet_classes_are_wnids(folder: Path) -> None:
    assert "'train/ant': not a wnid" in refused(IMAGENET, folder)[1]


@pytest.mark.parametrize("other", ["cafe\u0301", "CAFÉ", "café "])
def test_a_class_that_only_looks_the_same_is_named_with_what_differs(folder: Path, other: str) -> None:
    picture(folder / "train" / "café" / "1.png")
    picture(folder / "val" / other / "1.png")
    code, text = refused(FOLDER, folder)
    assert code == 2 and f"there is no class {other!r} in train/; 'café' is there" in text
    assert ascii("café") in text and ascii(other) in text
    assert ("Unicode form: " in text) == (unicodedata.normalize("NFC", other) == "café")


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
    result = index_and_shard(folder, "source: folder, expected: {train: 4, val: 4}", monkeypatch)
    assert [one.exit_code for one in result] == [0, 0], result[1].output
    assert "6 files left aside, not named as images: " in result[0].output and r"'train/ant/Icon\r'" in result[0].output
    manifest = json.loads((folder.parent / "work" / "shards" / "train" / "manifest.json").read_text())
    assert manifest["samples"] == 4 and manifest["quarantined"] == []
    assert "notes.txt" not in (folder.parent / "work" / "index.tsv").read_text()


def test_classes_may_begin_with_an_underscore_or_an_at_sign_and_systems_folders_are_passed_over(
    jpegs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clutter = (".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found")
    for split in ("train", "val"):
        for name in ("_none", "@home", *clutter):
            picture(jpegs / split / name / "1.jpg")
    classes, splits = read_splits(FOLDER, jpegs, scan(FOLDER, jpegs))
    assert classes == ("@home", "_none", "ant", "bee") and len({entry.key for entry in splits["train"].entries}) > 3
    said = capsys.readouterr().out
    assert all(f"/{name}/'" in said for name in clutter)
