"""Kinds of images that people's folders hold: packed with the same pixels and said, or refused with the reason."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from pipeline.cache.identity import views_identity
from pipeline.data.images import Undecodable, decode_image, prepare
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.runtime.errors import PipelineError
from pipeline.views.drawn import draw_visit
from pipeline.views.recipe import Recipe
from tests.support.inputs import (
    FOLDER,
    RAMP,
    TARS,
    index_and_shard,
    member,
    packed,
    picture,
    read,
    tar_samples,
    write_tar,
)

CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # five tags, and no byte of them


def coded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(RAMP)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_bmp_tiff_and_gif_are_packed_as_png_of_the_same_pixels_and_the_size_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "a.bmp": coded("BMP"),
        "b.tif": coded("TIFF", compression="tiff_lzw"),
        "c.gif": coded("GIF"),
        "d.jpg": coded("BMP"),
        "e.TIFF": coded("TIFF", Image.fromarray(RAMP[..., 0])),
    }
    for name, content in contents.items():
        (folder / "train" / "ant" / name).write_bytes(content)
    result = index_and_shard(folder, "source: folder", monkeypatch)[1]
    assert result.exit_code == 0, result.output
    assert "train: 5 BMP, TIFF or GIF images are packed as exact PNG: 0.0 MB became 0.0 MB" in result.output
    shards = Shards.open(folder.parent / "work" / "shards" / "train")
    found = {sample.key: sample for block in shards.blocks for sample in shards.read(block)}
    for name, content in contents.items():
        expected = Image.open(io.BytesIO(content)).convert("RGB")
        sample = found[f"ant/{name[0]}"]
        assert sample.data.startswith(b"\x89PNG") and np.array_equal(decode_image(sample.data, "x"), expected), name
    write_tar(folder / "t" / "train" / "a.tar", [m for i in range(3) for m in (
        member(f"{i}.cls", b"%d" % (i % 2)), member(f"{i}.BMP", contents["a.bmp"]))])  # fmt: skip
    write_tar(folder / "t" / "val" / "a.tar", tar_samples(1))
    from_tar = packed(TARS, folder / "t", folder.parent / "from_tar")
    assert np.array_equal(decode_image(from_tar.read(from_tar.blocks[0])[0].data, "x"), RAMP)
    with tarfile.open(shards.root / shards.names[0]) as archive:
        assert {name.rsplit(".", 1)[1] for name in archive.getnames()} == {"png", "cls"}
    grey = prepare(contents["e.TIFF"], "x").data
    assert len(grey) < len(prepare(contents["a.bmp"], "x").data) - 200  # one channel is packed as one


FRAMES = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (coded("GIF", FRAMES[0], save_all=True, append_images=FRAMES[1:]), "animated"),
        (coded("TIFF", FRAMES[0], save_all=True, append_images=FRAMES[1:]), "several pages"),
        (coded("TIFF", Image.fromarray(np.full((2, 2), 4000, np.uint16))), "16 bits"),
        (coded("TIFF", Image.fromarray(np.full((2, 2), 0.5, np.float32))), "16 bits|pixel mode"),
        (coded("BMP")[:-50], "truncated"),
    ],
)
def test_images_whose_pixels_would_change_silently_stay_unusable(data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        prepare(data, "x")


def test_a_png_with_megabytes_of_text_is_its_pixels_and_damage_in_the_text_is_damage() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("long", "x" * 2_000_000)
    info.add_text("packed", "y" * 3_000_000, zip=True)
    info.add_itxt("more", "z" * 1_500_000)
    data = coded("PNG", pnginfo=info)
    assert np.array_equal(decode_image(data, "x"), RAMP)
    assert prepare(data, "x").data is data
    place = data.index(b"xxxx")
    with pytest.raises(Undecodable):
        decode_image(data[:place] + b"!" + data[place + 1 :], "x")


def test_an_image_larger_than_the_limit_says_so_and_the_limit_is_a_number_of_the_config(folder: Path) -> None:
    Image.new("1", (8192, 6144)).save(folder / "train" / "ant" / "wall.png")
    classes, splits = read(FOLDER, folder)
    with pytest.raises(PipelineError, match=r"wall.png': 8192x6144 is 50.3 Mpx, data.max_pixels allows 50 Mpx"):
        pack_splits(FOLDER, classes, splits, folder.parent / "out", 1)
    config = FOLDER.model_copy(update={"max_pixels": 60_000_000})
    shards = packed(config, folder, folder.parent / "out")
    assert shards.samples == 5 and shards.manifest.max_pixels == 60_000_000
    Image.new("1", (1200, 1000)).save(folder / "train" / "ant" / "wall.png")
    with pytest.raises(PipelineError, match=r"1200x1000 is 1.2 Mpx, data.max_pixels allows 0.5 Mpx"):
        packed(FOLDER.model_copy(update={"max_pixels": 500_000}), folder, folder.parent / "out")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # pytest undoes the filter of data.images
def test_a_rotation_in_exif_is_said_and_applied_where_asked_and_is_another_cache(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turned by 90 degrees it is upright
    for name, kind in (("j.jpg", "JPEG"), ("p.png", "PNG"), ("w.webp", "WEBP")):
        picture(folder / "train" / "ant" / name, kind, seed=5, exif=exif)
    (folder / "train" / "ant" / "broken.jpg").write_bytes(coded("JPEG", exif=b"Exif\0\0junkjunk"))
    (folder / "train" / "ant" / "cut.jpg").write_bytes(coded("JPEG", exif=CUT_EXIF))
    recipe = Recipe(seed=0, size=12, crop="center")
    sizes, pixels, identities = {}, {}, {}
    for orientation in ("stored", "upright"):
        config = FOLDER.model_copy(update={"orientation": orientation})
        shards = packed(config, folder, folder.parent / orientation)
        said = capsys.readouterr().out
        assert "train: 1 images have damaged EXIF or other metadata; their pixels are whole" in said
        assert f"train: 3 images carry a rotation in their EXIF; data.orientation: {orientation}" in said
        found = {s.key: decode_image(s.data, s.key, shards.rule) for block in shards.blocks for s in shards.read(block)}
        sizes[orientation] = {key: image.size for key, image in found.items()}
        pixels[orientation] = [draw_visit(shards, recipe, block, 0, 1).pixels for block in shards.blocks]
        identities[orientation] = views_identity(shards, recipe, pixels[orientation][0].device)
    assert sizes["stored"] == dict.fromkeys(sizes["stored"], (10, 12))
    turned = {key for key, size in sizes["upright"].items() if size == (12, 10)}
    assert turned == {"ant/j", "ant/p", "ant/w"}
    assert not all((a == b).all() for a, b in zip(pixels["stored"], pixels["upright"]))
    assert identities["upright"] == identities["stored"] | {"orientation": "upright"}
    assert "orientation" not in json.loads((folder.parent / "stored" / "train" / "manifest.json").read_text())
    upright = Image.open(folder / "train" / "ant" / "p.png").transpose(Image.Transpose.ROTATE_270)
    rule = FOLDER.model_copy(update={"orientation": "upright"}).rule
    assert np.array_equal(decode_image((folder / "train" / "ant" / "p.png").read_bytes(), "x", rule), upright)
    small = prepare((folder / "train" / "ant" / "j.jpg").read_bytes(), "x", rule, shorter=5)
    assert small.rotated and decode_image(small.data, "x", rule).size == (6, 5)  # turned once, and its EXIF is gone


def test_pillow_says_nothing_of_damaged_exif_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(coded("JPEG", exif=CUT_EXIF))
    code = (
        "import sys; from pipeline.data.images import decode_image; decode_image(open(sys.argv[1], 'rb').read(), 'x')"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "cut.jpg")]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stderr == ""
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        Image.open(tmp_path / "cut.jpg").getexif()


def test_every_orientation_is_made_upright_as_pillow_does_it() -> None:
    upright = FOLDER.model_copy(update={"orientation": "upright"}).rule
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, options in (("PNG", {}), ("MPO", {"save_all": True, "append_images": FRAMES[:1]})):
            data = coded(kind, exif=exif, **options)
            expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            assert np.array_equal(decode_image(data, "x", upright), expected), orientation
            assert decode_image(data, "x").size == (10, 12)
            assert prepare(data, "x").rotated == (orientation in range(2, 9))
