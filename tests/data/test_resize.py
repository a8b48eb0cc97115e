"""Resizing when packing and drawing: Pillow 13's bytes, and nothing beyond what is drawn."""

import numpy as np
import pytest

from pipeline.data import images
from pipeline.data.resize import Room, Scaling, resize, resize_whole
from tests.support.marks import pillow_13
from tests.support.pictures import small_kinds


@pillow_13
def test_packing_resizes_as_pillow_13_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_kinds()["portrait"]
    made = []
    for engine in ("pil", "kernels"):
        monkeypatch.setenv("DISTIL_ENGINE", engine)
        made.append(images.prepare(data, "x", shorter=40).data)
    assert made[0] == made[1] != data


def test_vertical_pass_first_only_where_pillow_13_takes_it() -> None:
    """The one thing in which Pillow 12 and 13 differ, as numbers made with Pillow 13, so that any Pillow shows them."""
    y, x = np.mgrid[:200, :90]
    picture = np.stack([(x * y) % 256, (x * 7 + y * 13) % 256, (x * x + y) % 256], -1).astype(np.uint8)
    found = [int(resize_whole(picture, *size).astype(np.int64).sum()) for size in ((40, 30), (90, 30), (195, 89))]
    assert found == [453191, 1019165, 6546979], "Pillow 12: 453182, 1019165, 6547083"


def test_rows_beyond_what_is_drawn_stay_as_they_are() -> None:
    out = np.full((3, 20, 20), 5, np.uint8)
    part = Scaling((0, 0, 9, 9), (16, 16), (2, 2, 7, 6), cubic=True, flip=True)
    resize(np.zeros((9, 9, 3), np.uint8), part, out, (4, 3), Room())
    inside = np.zeros((20, 20), bool)
    inside[4:11, 3:9] = True
    assert not out[:, inside].any() and (out[:, ~inside] == 5).all()
