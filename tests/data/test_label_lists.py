"""Text files that people write: class names and label lists, read as their author meant them or refused by line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.data.sources import read_splits, scan
from tests.support.inputs import IMAGENET, TARS, picture, read, refused

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


WNIDS = ("n00000001", "n00000002")


def _val_labels(root: Path) -> None:
    (root / "val_labels.txt").write_text(
        "".join(f"ILSVRC2012_val_{row:08d}.JPEG {WNIDS[row % 2]}\n" for row in range(1, 5))
    )


def _kaggle(root: Path) -> None:
    rows = "".join(f"ILSVRC2012_val_{row:08d},{WNIDS[row % 2]} 85 1 499 272 \n" for row in range(1, 5))
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)


def _devkit(root: Path) -> None:
    directory = root / "ILSVRC2012_devkit_t12" / "data"
    directory.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    synsets = np.array([(2, WNIDS[0], 0), (1, WNIDS[1], 0), (3, "n00000009", 2)], dtype=kind)
    scipy.io.savemat(directory / "meta.mat", {"synsets": synsets})
    (directory / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n2\n")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for wnid in WNIDS:
        picture(tmp_path / "train" / wnid / f"{wnid}_1.JPEG")
    for row in range(1, 5):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{row:08d}.JPEG")
    return tmp_path


@pytest.mark.parametrize("write", [_val_labels, _kaggle, _devkit])
def test_imagenets_flat_val_takes_its_labels_from_a_list(flat: Path, write: Callable[[Path], None]) -> None:
    write(flat)
    listed = scan(IMAGENET, flat)
    classes, splits = read_splits(IMAGENET, flat, listed)
    assert classes == WNIDS
    found = [(entry.key[-2:], entry.label) for entry in splits["val"].entries]
    assert found == [("01", 1), ("02", 0), ("03", 1), ("04", 0)]
    assert any("val_" in file.path or "ground_truth" in file.path for file in listed[:4])


def test_imagenets_flat_val_without_labels_or_with_odd_ones_is_refused(flat: Path) -> None:
    code, text = refused(IMAGENET, flat)
    assert code == 2 and "val_labels.txt" in text and "LOC_val_solution.csv" in text
    (flat / "val_labels.txt").write_text("ILSVRC2012_val_00000001.JPEG n00000001\n")
    code, text = refused(IMAGENET, flat)
    assert code == 2 and "'val/ILSVRC2012_val_00000002.JPEG': no label" in text and "3 problems" in text
    (flat / "val_labels.txt").write_text("one two three\n")
    code, text = refused(IMAGENET, flat)
    assert code == 3 and "'val_labels.txt': not a label list" in text and "no label in" not in text


def test_an_empty_label_list_is_the_problem_of_every_image(flat: Path) -> None:
    (flat / "val_labels.txt").write_text("\n")
    code, text = refused(IMAGENET, flat)
    assert code == 2 and "no label in the label list" in text


def test_a_damaged_devkit_is_named_and_not_a_traceback(flat: Path) -> None:
    _devkit(flat)
    next(flat.rglob("meta.mat")).write_bytes(b"garbage")
    code, text = refused(IMAGENET, flat)
    assert code == 3 and "'meta.mat': not the devkit's meta.mat" in text and text.count("\n") == 1


def test_every_label_list_is_read_by_the_same_rules(flat: Path) -> None:
    rows = [f"ILSVRC2012_val_{row:08d}.JPEG,{WNIDS[row % 2]}" for row in range(1, 5)]
    (flat / "val" / "valprep.sh").write_text("#!/bin/bash")
    (flat / "val_labels.txt").write_bytes("\r\n".join([*rows, "", ""]).encode("utf-8-sig"))
    assert [entry.label for entry in read(IMAGENET, flat)[1]["val"].entries] == [1, 0, 1, 0]
    (flat / "val_labels.txt").write_text("\n".join([*rows, rows[0]]))
    code, text = refused(IMAGENET, flat)
    assert code == 2 and "'ILSVRC2012_val_00000001.JPEG' stands in line 1 and in line 5" in text
    (flat / "val_labels.txt").unlink()
    kaggle = "\r\n".join(["ImageId,PredictionString", *(f'"{row.replace(".JPEG", "")} 1 2 3 4"' for row in rows)])
    (flat / "LOC_val_solution.csv").write_bytes(kaggle.encode("utf-16"))
    assert [entry.label for entry in read(IMAGENET, flat)[1]["val"].entries] == [1, 0, 1, 0]
