"""Encoded bytes to pixels, by the rule of ``pipeline.data.images`` and with the same bits, faster for plain JPEGs.

A plain JPEG has 8 bits, one or three channels, and is baseline or progressive with Huffman codes. For these torchvision's
libjpeg-turbo gives the pixels of Pillow's and refuses what is cut off. What it refuses, and everything else, Pillow decodes.
Packing decodes every image by Pillow, so a header that only Pillow refuses does not come here.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFile

from pipeline.data import images

_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_NO_FRAMES = {0xC4, 0xC8, 0xCC}  # in the range of frames: tables, reserved
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_RGB = 3  # torchvision's ImageReadMode.RGB


def decode(data: bytes, name: str, rule: images.Rule = images.STORED) -> np.ndarray:
    """The image in ``data`` as RGB, uint8 (H, W, 3), contiguous and writable. Raises Undecodable as ``images.decode_image``."""
    library = _library()
    as_stored = rule.orientation == "stored" and not ImageFile.LOAD_TRUNCATED_IMAGES
    if library is not None and as_stored and plain_size(data, rule.max_pixels):
        try:
            pixels = library(data)
        except RuntimeError:  # Pillow has the last word
            pass
        else:
            return np.ascontiguousarray(pixels)
    return np.array(images.decode_image(data, name, rule))


def plain_size(data: bytes, max_pixels: int = images.MAX_PIXELS) -> tuple[int, int] | None:
    """Height and width by the header of a plain JPEG of at most ``max_pixels``, None for anything else."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a filling byte
            at += 1
        elif marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            plain = data[at + 4] == 8 and data[at + 9] in (1, 3) and 0 < height * width <= max_pixels
            return (height, width) if plain else None
        elif marker in _ALONE or marker == 0xDA or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES):
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


@cache
def _library() -> Callable[[bytes], np.ndarray] | None:
    """torchvision's decoder, loaded without the package around it, which costs every process 3 s of imports.

    None where it is not there: torchvision has announced its removal.
    """
    import torch  # here, because drawing alone needs no torch, and it takes seconds

    package, mute = importlib.util.find_spec("torchvision"), _mute()
    if package is None or package.origin is None or mute is None:
        return None
    for file in ("image_stable.so", "image.so"):
        if Path(package.origin).with_name(file).is_file():
            try:
                torch.ops.load_library(Path(package.origin).with_name(file))
                decode_jpeg = torch.ops.image.decode_jpeg.default
            except (OSError, AttributeError):  # made for another torch; without a decoder
                continue
            return _Decoder(decode_jpeg, mute, lambda count: torch.empty(count, dtype=torch.uint8))
    return None


class _Decoder:
    """``decode_jpeg`` with its input copied to memory of its own, because a tensor can't use read-only bytes."""

    def __init__(self, decode_jpeg: Any, mute: Callable[[bool], None], memory: Callable[[int], Any]) -> None:
        self.decode_jpeg, self.mute, self.memory = decode_jpeg, mute, memory
        self.room = memory(0)

    def __call__(self, data: bytes) -> np.ndarray:
        if len(self.room) < len(data):
            self.room = self.memory(2 * len(data))
        self.room.numpy()[: len(data)] = np.frombuffer(data, np.uint8)
        self.mute(True)
        try:
            return self.decode_jpeg(self.room[: len(data)], _RGB).permute(1, 2, 0).numpy()
        finally:
            self.mute(False)


def _mute() -> Callable[[bool], None] | None:
    """A switch for what C code prints to ``stderr``, or None where there is none (not glibc).

    libjpeg prints warnings about damaged scans there, past Python. The switch points C's variable ``stderr`` at /dev/null, by
    two writes to memory and no system call per image. File descriptor 2 stays as it is, so that neither Python nor another
    process is muted; what C code of another thread prints in that millisecond is lost.
    """
    try:
        libc = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(libc, "stderr")
        libc.fopen.restype = ctypes.c_void_p
        nowhere = libc.fopen(b"/dev/null", b"w")
    except (OSError, ValueError, AttributeError):
        return None
    shown = stream.value
    if not nowhere or not shown:
        return None

    def mute(on: bool) -> None:
        stream.value = nowhere if on else shown

    return mute
