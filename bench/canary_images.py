"""Makes the pictures of pipeline/views/canary_images. They are procedural, so that they need no licence.

    python -m bench.canary_images OUT     a new set changes every cache's identity: raise VIEWS_VERSION with it

Each is 1/f noise, which has the spectrum of natural images, with hard-edged discs, bars and a gradient: at edges, resizing
differs most between versions of a library. Kinds of JPEG: 4:4:4, 4:2:2, 4:2:0, progressive, grey, CMYK.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

# name, width, height, mode, quality, chroma subsampling, progressive
KINDS = (
    ("wide", 500, 375, "RGB", 38, 2, False),
    ("tall", 333, 500, "RGB", 42, 2, False),
    ("progressive", 400, 300, "RGB", 55, 2, True),
    ("full-chroma", 320, 240, "RGB", 60, 0, False),
    ("half-chroma", 256, 256, "RGB", 60, 1, False),
    ("grey", 300, 260, "L", 60, 0, False),
    ("cmyk", 240, 200, "CMYK", 40, 0, False),
    ("strip", 480, 90, "RGB", 70, 2, False),
    ("small", 97, 61, "RGB", 85, 2, False),
    ("tiny", 32, 32, "RGB", 92, 0, False),
)


def picture(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3)."""
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


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(20240601)
    for name, width, height, mode, quality, subsampling, progressive in KINDS:
        image = Image.fromarray(picture(generator, width, height)).convert(mode)
        path = out / f"{name}.jpg"
        image.save(path, quality=quality, subsampling=subsampling, progressive=progressive, optimize=True)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
