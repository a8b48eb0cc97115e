"""One written rule per kind of image: bytes to RGB pixels, and exact PNG bytes for pixel sources.

RGB as is; greyscale, bilevel and palette to RGB; CMYK to RGB by Pillow; alpha composited on black; of a multi-picture
JPEG (phones) the first picture. EXIF orientation is ignored, as timm and DeiT do. 16-bit, animated, larger than 50 Mpx,
truncated, and whatever is not JPEG, PNG or WebP by content: ``Undecodable`` with the reason.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.base import engine
from pipeline.runtime.errors import UsageError

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_PIXELS = 50_000_000
_MODES = {"1", "L", "P", "RGB", "CMYK"}


class Undecodable(Exception):
    """These bytes are no image by the rule above: ``reason``, and the text with the file's name before it."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name!r}: {reason}" if name else reason)
        self.reason = reason


def decode(data: bytes, name: str) -> Image.Image:
    """The image (H, W) in ``data`` as RGB. ``name`` is for messages only; the content decides the format.

    Raises Undecodable with ``name`` and the reason.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: cut images would turn grey; leave it off")
    try:
        return _decode(data)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG or WebP image"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = "more than 50 Mpx"
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error and others
        reason = str(error) or type(error).__name__
    raise Undecodable(reason, name)


def _decode(data: bytes) -> Image.Image:
    """Raises ValueError with the reason for what Pillow would take and we don't."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:  # known from the header, before a pixel is decoded
        raise ValueError(f"{image.width}x{image.height} pixels, more than 50 Mpx")
    if image.format == "PNG" and data[24] == 16:  # IHDR's bit depth; Pillow would drop the low bytes silently
        raise ValueError("16 bits per channel")
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise ValueError("animated")
    image.load()
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    if image.mode not in _MODES:
        raise ValueError(f"pixel mode {image.mode}")
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 (H, W) greyscale or (H, W, 3) RGB, uncompressed.

    Written by hand with stored deflate blocks: Pillow's PNG bytes change with its zlib, and so would every shard hash
    and cache identity. The images are small (digits, CIFAR), so compression would gain little.
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


def shrink(data: bytes, name: str, shorter: int | None) -> bytes:
    """JPEG bytes (quality 95, 4:4:4) with the shorter side at ``shorter`` px, bicubic; smaller images verbatim, and with
    None all of them, but proven.

    Raises Undecodable. The bytes depend on Pillow's JPEG encoder, unlike verbatim ones.
    """
    image = decode(data, name)
    if shorter is None or min(image.size) <= shorter:
        return data
    scale = shorter / min(image.size)
    size = (max(shorter, round(image.width * scale)), max(shorter, round(image.height * scale)))
    buffer = io.BytesIO()
    _resized(image, size).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def prepare() -> None:
    """Compiles what ``shrink`` needs, or loads it, before workers start."""
    if engine.kernels():
        from pipeline.base import compiled
        from pipeline.data.resize import resize_whole

        compiled.prepare(lambda: resize_whole(np.zeros((2, 2, 3), np.uint8), 1, 1))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``image`` at ``size`` (width, height), bicubic, with the pixels of the views' resize under any Pillow."""
    if not engine.kernels():
        return image.resize(size, Image.Resampling.BICUBIC)
    from pipeline.data.resize import resize_whole

    return Image.fromarray(resize_whole(np.array(image), size[1], size[0]))
