"""Which files of a person's folder are looked at, and why others are not."""

import os
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.images import STORED
from pipeline.runtime.errors import UsageError
from pipeline.student.predict import _view, files_of, told
from pipeline.views.recipe import Recipe


def test_what_a_folder_holds_besides_images_is_listed_with_its_reason(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "b.jpg")
    (tmp_path / "plain").write_bytes((tmp_path / "b.jpg").read_bytes())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "phone.heic").write_bytes(b"x")
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    for name in ("_a", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "1.png")
    (tmp_path / "again").symlink_to(".")
    files, aside = files_of(tmp_path)
    recipe = Recipe(seed=0, size=8)
    found = {path.name: found if isinstance(found := _view(path, recipe, STORED), str) else "" for path in files}
    assert found.pop("phone.heic").startswith("a format that is not read; convert it to one of .jpg, ")
    assert found == {
        "1.png": "",
        "b.jpg": "",
        "empty.png": "empty file",
        "gone.jpg": "a link that leads nowhere",
        "pipe.jpg": "a pipe, socket or device",
    }
    assert {of.path.name: of.reason for of in aside} == {
        "__MACOSX": "a hidden folder, or a link to one",
        ".git": "a hidden folder, or a link to one",
        "again": "a hidden folder, or a link to one",
        "notes.txt": "not named as an image",
        "pipe": "a pipe, socket or device",
        "plain": "an image without its suffix; rename it to plain.jpg",
    }
    assert told(aside).startswith("; 6 passed over: ") and told([]) == ""


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "s3://bucket/a.jpg"])
def test_a_url_is_named_as_such(url: str) -> None:
    with pytest.raises(UsageError, match="a URL; download the image, and name the file"):
        files_of(Path(url))


def test_where_nothing_is_an_image_the_refusal_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        UsageError, match=r"no folder with images; .*; 1 passed over: .*notes.txt \(not named as an image\)"
    ):
        files_of(tmp_path)
