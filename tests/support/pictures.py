"""Encoded pictures of every kind, made without a photograph."""

import functools
import io
import os

import numpy as np
from PIL import Image


@functools.cache
def every_kind() -> dict[str, bytes]:
    """Encoded pictures of every kind, by name: those of the file BENCH_PICTURES if it is set, else made now."""
    if os.environ.get("BENCH_PICTURES"):
        with np.load(os.environ["BENCH_PICTURES"]) as kept:
            return {name: kept[name].tobytes() for name in kept.files}
    generator = np.random.default_rng(20261126)
    wide, tall = procedural(generator, 212, 160), procedural(generator, 131, 197)
    panorama = np.tile(procedural(generator, 400, 250), (1, 40, 1))
    large = np.tile(procedural(generator, 1000, 750), (4, 4, 1))
    base = jpeg(wide, subsampling=2, quality=90)
    cmyk = jpeg(tall, "CMYK", quality=88)
    cut = base.index(b"\xff\xda") + 14
    made = {
        "4:4:4": jpeg(wide, subsampling=0, quality=92),
        "4:2:2": jpeg(wide, subsampling=1, quality=60),
        "4:2:0": base,
        "4:1:1": four_one_one(jpeg(procedural(generator, 128, 160), subsampling=2, quality=90)),
        "progressive": jpeg(tall, progressive=True, quality=80),
        "grey": jpeg(wide, "L", quality=70),
        "cmyk": cmyk,
        "ycck": cmyk.replace(b"Adobe\x00\x64\x00\x00\x00\x00\x00", b"Adobe\x00\x64\x00\x00\x00\x00\x02", 1),
        "adobe rgb": jpeg(tall, keep_rgb=True, quality=85),
        "restart markers": jpeg(wide, restart_marker_blocks=3, quality=75),
        "damaged": base[: cut + 900] + b"\x5a\xff\x00\x11" + base[cut + 904 : cut + 1500] + base[cut + 1520 :],
        "portrait": jpeg(procedural(generator, 90, 320), subsampling=2, quality=85),
        "panorama": jpeg(panorama, subsampling=2, quality=70),
        "tiny": jpeg(wide[:1, :1]),
        "thread": jpeg(wide[:3, :150]),
        "large": jpeg(large, subsampling=2, quality=75),
    }
    alpha = np.dstack([tall, np.tile(np.linspace(0, 255, tall.shape[1]).astype(np.uint8), (tall.shape[0], 1))])
    for name, image in (("alpha", Image.fromarray(alpha)), ("palette", Image.fromarray(wide).quantize(60))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        made[name] = buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(wide[:64, :64]).save(buffer, "WEBP", quality=80)
    return made | {"webp": buffer.getvalue()}


def small_kinds() -> dict[str, bytes]:
    """Those that are decoded in no time."""
    return {name: data for name, data in every_kind().items() if name not in ("large", "panorama")}


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def four_one_one(data: bytes) -> bytes:
    """A 4:2:0 JPEG relabelled as 4:1:1 of twice the width and half the height: both have four blocks of luma per unit, so
    it decodes to a (scrambled) picture. No encoder at hand makes one."""
    at = data.index(b"\xff\xc0")
    height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
    size = (height // 2).to_bytes(2) + (2 * width).to_bytes(2)
    return data[: at + 5] + size + data[at + 9 : at + 11] + b"\x41" + data[at + 12 :]


def procedural(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A picture uint8 (height, width, 3): 1/f noise, which has the spectrum of natural images, with hard edges."""
    y, x = np.mgrid[:height, :width]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1.0
    layers = []
    for _ in range(3):
        spectrum = np.fft.fft2(generator.normal(size=(height, width))) / frequency**1.4
        noise = np.fft.ifft2(spectrum).real
        layers.append((noise - noise.mean()) / noise.std())
    common = layers[0]
    image = np.stack([128 + 40 * common + 18 * layer for layer in layers], -1)
    image += np.linspace(-30, 30, width)[None, :, None]
    for _ in range(6):
        colour = generator.uniform(0, 255, 3)
        cy, cx, radius = (
            generator.uniform(0, height),
            generator.uniform(0, width),
            generator.uniform(0.04, 0.2),
        )
        disc = np.hypot(y - cy, x - cx) < radius * min(height, width)
        image[disc] = 0.3 * image[disc] + 0.7 * colour
    slope, offset = generator.uniform(-1, 1), generator.uniform(0, height)
    image[np.abs(y - offset - slope * x) < 3] = generator.uniform(0, 255, 3)
    box = image[: height // 5, : width // 6]
    box[(y[: height // 5, : width // 6] // 4 + x[: height // 5, : width // 6] // 4) % 2 == 0] = 250
    return image.clip(0, 255).astype(np.uint8)
