"""Makes the pictures of pipeline/views/canary_images. They are procedural, so that they need no licence.

    python -m bench.canary_images OUT     a new set changes every cache's identity: raise VIEWS_VERSION with it

Each is 1/f noise, which has the spectrum of natural images, with hard-edged discs, bars and a gradient: at edges, resizing
differs most between versions of a library. Kinds of JPEG: 4:4:4, 4:2:2, 4:2:0, progressive, grey, CMYK.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.pictures import procedural

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


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(20240601)
    for name, width, height, mode, quality, subsampling, progressive in KINDS:
        image = Image.fromarray(procedural(generator, width, height)).convert(mode)
        path = out / f"{name}.jpg"
        image.save(path, quality=quality, subsampling=subsampling, progressive=progressive, optimize=True)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
