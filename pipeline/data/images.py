"""One written rule per kind of image: bytes to RGB pixels, and exact PNG bytes for pixel sources.

RGB as is; greyscale, bilevel and palette to RGB; CMYK to RGB by Pillow; alpha composited on black; of a multi-picture
JPEG (phones) the first picture. EXIF orientation is ignored, as by timm and DeiT, unless ``Rule.orientation`` is
``upright``. 16-bit, animated, larger than ``Rule.max_pixels``, truncated, or not JPEG, PNG or WebP by content:
``Undecodable`` with the reason. ``prepare`` also takes BMP, TIFF and static GIF, and packs them as PNG.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.base import engine
from pipeline.runtime.errors import UsageError

FORMATS = ("JPEG", "PNG", "WEBP")  # kept byte for byte
SUFFIXES = ("jpg", "jpeg", "png", "webp", "jpe", "jfif")
PACKED_FORMATS = ("BMP", "TIFF", "GIF")  # packed as PNG: shards hold what every reader of WebDataset decodes
PACKED_SUFFIXES = ("bmp", "dib", "tif", "tiff", "gif")
UNREAD_SUFFIXES = ("heic", "heif", "avif", "jxl", "jp2", "psd", "svg", "ico", "tga", "ppm", "pgm", "pbm", "pnm", "dng")
MAX_PIXELS = 50_000_000
MAX_BYTES = 1 << 29  # of a file: 50 Mpx of 8 bytes and more
MAX_SCANS = 200  # of a JPEG: usual are 1 to 20, and each costs a pass over all pixels for some 30 bytes
# "Corrupt EXIF data", without a file's name, from every process that decodes; packing counts them.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
_MODES = {"1", "L", "P", "RGB", "CMYK"}
_BITS = 258  # TIFF's BitsPerSample
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes an image of this orientation upright
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # hold no pixel; Pillow refuses images with more than 1 MB in one

# Pillow's own limit would refuse what ``Rule.max_pixels`` allows; ours is checked from the header as well.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Rule:
    """How a data set's images are decoded. ``orientation``: pixels as they are stored, or turned ``upright`` by EXIF;
    ``max_pixels``: of one image, since a file of 1 kB may claim gigabytes."""

    orientation: Literal["stored", "upright"] = "stored"
    max_pixels: int = MAX_PIXELS


STORED = Rule()


@dataclass(frozen=True)
class Prepared:
    """An image as it is packed. ``kind``: its member's suffix, "" for that of the file's name; ``rotated``: its EXIF has a
    rotation; ``converted``: from BMP, TIFF or GIF to exact PNG; ``broken``: Pillow warned of its EXIF or other metadata."""

    data: bytes
    kind: str
    rotated: bool
    converted: bool
    broken: bool


class Undecodable(Exception):
    """These bytes are no image by the rule above; the text is the file's name and ``reason``."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name!r}: {reason}" if name else reason)
        self.reason = reason


def decode_image(data: bytes, name: str, rule: Rule = STORED) -> Image.Image:
    """The image (H, W) in ``data`` as RGB. ``name`` is for messages only; the content decides the format.

    Raises Undecodable with ``name`` and the reason.
    """
    return _decoded(data, name, rule, FORMATS, look=rule.orientation == "upright")[0]


def prepare(data: bytes, name: str, rule: Rule = STORED, shorter: int | None = None) -> Prepared:
    """``data`` as it is packed, after decoding it: JPEG, PNG and WebP verbatim; BMP, TIFF and GIF as exact, uncompressed
    PNG; an image whose shorter side is above ``shorter`` px as JPEG (quality 95, 4:4:4, bicubic) of that side. Raises
    Undecodable.

    Only the bytes of a resized image depend on Pillow's JPEG encoder.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image, kind, rotated = _decoded(data, name, rule, (*FORMATS, *PACKED_FORMATS), look=True)
    broken = any(warning.category is UserWarning for warning in caught)
    converted = kind in PACKED_FORMATS
    if shorter is not None and min(image.size) > shorter:
        scale = shorter / min(image.size)
        size = (max(shorter, round(image.width * scale)), max(shorter, round(image.height * scale)))
        buffer = io.BytesIO()
        _resized(image, size).save(buffer, "JPEG", quality=95, subsampling=0)
        return Prepared(buffer.getvalue(), "jpg", rotated, False, broken)
    if converted:
        pixels = np.asarray(image)
        grey = (pixels == pixels[..., :1]).all()  # a third of the bytes, and the same pixels when decoded
        return Prepared(encode_png(pixels[..., 0] if grey else pixels), "png", rotated, True, broken)
    return Prepared(data, "", rotated, False, broken)


def _decoded(data: bytes, name: str, rule: Rule, formats: tuple[str, ...], look: bool) -> tuple[Image.Image, str, bool]:
    """The image, its format, and, with ``look``, whether its EXIF has a rotation."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: cut images would turn grey; leave it off")
    try:
        return _decode(_without_text(data), rule, formats, look)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG or WebP image" + (" (nor BMP, TIFF or GIF)" if len(formats) > len(FORMATS) else "")
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error and others
        reason = str(error) or type(error).__name__
    raise Undecodable(reason, name)


def _decode(data: bytes, rule: Rule, formats: tuple[str, ...], look: bool) -> tuple[Image.Image, str, bool]:
    """Raises ValueError with the reason for images that Pillow decodes and this rule refuses."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=formats)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if image.width * image.height > rule.max_pixels:  # known from the header, before a pixel is decoded
        size = f"{image.width}x{image.height} is {image.width * image.height / 1e6:.1f} Mpx"
        raise ValueError(f"{size}, data.max_pixels allows {rule.max_pixels / 1e6:.6g} Mpx")
    if look and kind == "JPEG" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"{scans} scans, a JPEG has at most {MAX_SCANS}")
    if (kind == "PNG" and data[24] == 16) or (kind == "TIFF" and _bits(image) > 8):
        raise ValueError("16 bits per channel")  # by the header; Pillow would drop the low bytes silently
    if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("several pages" if kind == "TIFF" else "animated")
    image.load()
    turn = _TURNS.get(_orientation(image)) if look else None
    rotated = turn is not None
    if turn is not None and rule.orientation == "upright":
        image = image.transpose(turn)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"), kind, rotated
    if image.mode not in _MODES:
        raise ValueError(f"pixel mode {image.mode}")
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb, kind, rotated


def _bits(image: Image.Image) -> int:
    """The largest bit depth of a TIFF's channels."""
    tags: Any = image  # only TIFF's class has tags
    return max(tags.tag_v2.get(_BITS, (8,)))


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation that Pillow has not applied (it applies TIFF's own); 1 if there is none or EXIF is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION)
        return found if isinstance(found, int) else 1
    except Exception:  # whatever Pillow's parser raises; the pixels are whole
        return 1


def _without_text(data: bytes) -> bytes:
    """A PNG without text and colour profile, once their checksums are verified; anything else unchanged."""
    if not data.startswith(_PNG):
        return data
    kept, at, dropped = [_PNG], len(_PNG), False
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        whole = end <= len(data)
        if whole and kind in _TEXT_CHUNKS and zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end]):
            dropped = True
        else:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]]) if dropped else data


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 (H, W) greyscale or (H, W, 3) RGB, uncompressed.

    Written here with uncompressed deflate blocks: Pillow's PNG bytes change with its zlib, and with them every shard hash
    and cache identity. The images are small (digits, CIFAR), so compression would save little.
    """
    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else 2
    rows = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # filter 0 before each row
    blocks = [raw[i : i + 65535] for i in range(0, len(raw), 65535)]
    stored = b"".join(
        struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block for block in blocks
    )
    stream = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", stream) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def compile_resize() -> None:
    """Compiles the kernel of ``prepare``'s resize, or loads it, before workers start."""
    if engine.kernels():
        from pipeline.base import compiled
        from pipeline.data.resize import KNOWN_RESIZED, known_resized

        compiled.compile_ahead(known_resized, KNOWN_RESIZED)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``image`` at ``size`` (width, height), bicubic, with the pixels of the views' resize under any Pillow."""
    if not engine.kernels():
        return image.resize(size, Image.Resampling.BICUBIC)
    from pipeline.data.resize import resize_whole

    return Image.fromarray(resize_whole(np.array(image), size[1], size[0]))
