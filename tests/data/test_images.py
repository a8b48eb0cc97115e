"""Every kind of image has one written outcome: these pixels, or a refusal with a reason."""

import contextlib
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.data.images import Undecodable, decode_image, encode_png, prepare
from pipeline.runtime.errors import UsageError

RAMP = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3) * 2


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data, "x.JPEG")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_stays_as_it_is_whatever_the_name_says() -> None:
    assert np.array_equal(pixels(saved(Image.fromarray(RAMP))), RAMP)


def test_grey_bilevel_and_palette_become_rgb() -> None:
    grey = Image.fromarray(RAMP[..., 0])
    assert np.array_equal(pixels(saved(grey)), np.repeat(RAMP[..., :1], 3, axis=2))
    bilevel = grey.point(lambda v: 255 * (v > 60)).convert("1")
    assert set(np.unique(pixels(saved(bilevel)))) == {0, 255}
    palette = Image.fromarray(RAMP).quantize(64)
    assert np.array_equal(pixels(saved(palette)), np.asarray(palette.convert("RGB")))


def test_cmyk_becomes_rgb_by_pillow() -> None:
    data = saved(Image.fromarray(RAMP).convert("CMYK"), "JPEG")
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_alpha_is_composited_on_black() -> None:
    rgba = np.dstack([np.full((2, 3, 3), 200, np.uint8), np.array([[0, 255, 128]] * 2, np.uint8)])
    assert pixels(saved(Image.fromarray(rgba)))[0, :, 0].tolist() == [0, 200, 100]
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert pixels(saved(grey_alpha))[0, :, 0].tolist() == [0, 200, 100]
    assert pixels(saved(Image.fromarray(rgba), "WEBP", lossless=True, exact=True))[0, :, 0].tolist() == [0, 200, 100]
    one_colour = saved(Image.fromarray(np.full((1, 1, 3), 200, np.uint8)), transparency=(200, 200, 200))
    assert pixels(one_colour).max() == 0


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(saved(Image.fromarray(RAMP), "JPEG", exif=exif)).shape == RAMP.shape


def test_a_multi_picture_jpeg_of_a_phone_is_its_first_picture() -> None:
    red, blue = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    found = pixels(saved(red, "MPO", save_all=True, append_images=[blue]))
    assert found[0, 0, 0] > 240 and found[0, 0, 2] < 10


def _png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


FRAMES = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
REFUSED = {
    "16-bit grey": (saved(Image.fromarray(np.full((2, 2), 4000, np.uint16))), "16 bits"),
    "16-bit RGB": (_png(1, 1, 16, 2, bytes(7)), "16 bits"),
    "animated PNG": (saved(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "animated"),
    "animated WebP": (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animated"),
    "GIF": (saved(Image.fromarray(RAMP), "GIF"), "not a JPEG"),
    "BMP": (saved(Image.fromarray(RAMP), "BMP"), "not a JPEG"),
    "TIFF": (saved(Image.fromarray(RAMP), "TIFF"), "not a JPEG"),
    "text": (b"<html>404</html>", "not a JPEG"),
    "empty": (b"", "not a JPEG"),
    "51 Mpx": (_png(7200, 7200, 8, 0, b""), "50 Mpx"),
    "100 Mpx": (_png(10_000, 10_000, 8, 0, b""), "50 Mpx"),
    "a bomb": (_png(60_000, 60_000, 8, 0, b""), "50 Mpx"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused_with_name_and_reason(kind: str) -> None:
    data, reason = REFUSED[kind]
    with pytest.raises(Undecodable, match=f"'n01/a.JPEG': .*{reason}"):
        decode_image(data, "n01/a.JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_truncation_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    for length in range(1, len(data) - 20, 37):
        with pytest.raises(Undecodable):
            decode_image(data[:length], "cut")


def test_damaged_bytes_raise_nothing_but_undecodable() -> None:
    generator = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = np.frombuffer(saved(Image.fromarray(RAMP), kind), np.uint8)
        for _ in range(150):
            flipped = data.copy()
            flipped[generator.integers(len(data), size=3)] = generator.integers(256, size=3)
            with contextlib.suppress(Undecodable):
                assert decode_image(flipped.tobytes(), "x").mode == "RGB"


def test_a_global_that_would_turn_cut_images_grey_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(saved(Image.fromarray(RAMP)), "x")


@pytest.mark.parametrize("shape", [(8, 8), (32, 32, 3), (1, 1), (300, 301), (150, 400, 3)])
def test_encode_png_holds_exactly_these_pixels(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    expected = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    assert np.array_equal(pixels(encode_png(image)), expected)


def test_encode_png_gives_the_same_bytes_on_every_machine() -> None:
    digest = hashlib.sha256(encode_png(RAMP)).hexdigest()
    assert digest == "75fcbe5413f4590dd31485f8cca602eed0fb4f4e764be528ddcf6e0b0ceb7024"


def test_prepare_makes_the_shorter_side_as_asked_and_leaves_small_images_alone() -> None:
    wide = saved(Image.new("RGB", (300, 100), (10, 200, 30)))
    assert decode_image(prepare(wide, "x", shorter=50).data, "x").size == (150, 50)
    assert prepare(wide, "x", shorter=100).data is wide


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("L", (400, 400)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    decode_image(data, "ten scans")
    at = data.rindex(b"\xff\xda")
    with pytest.raises(Undecodable, match="scans, a JPEG has at most 200"):
        prepare(data[:-2] + data[at:-2] * 2000 + data[-2:], "many")
