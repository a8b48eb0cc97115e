"""A small ImageFolder of photographs, cut from pictures that scikit-image and scikit-learn bring along."""

from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

from pipeline.views.chance import Draws

_SCIKIT_IMAGE = Path(skimage.data.__file__).parent
_SCIKIT_LEARN = Path(sklearn.datasets.__file__).parent / "images"
PICTURES = {
    "brick": _SCIKIT_IMAGE / "brick.png",
    "cat": _SCIKIT_IMAGE / "chelsea.png",
    "coffee": _SCIKIT_IMAGE / "coffee.png",
    "flower": _SCIKIT_LEARN / "flower.jpg",
    "rocket": _SCIKIT_IMAGE / "rocket.jpg",
}
KINDS = ("jpeg", "grey", "cmyk", "alpha", "progressive", "palette", "webp")


def make_photo_folder(root: Path, per_class: int) -> None:
    """Writes ``root/train/<class>`` with ``per_class`` images and ``root/val/<class>`` with at least 2, a
    third of it.

    Five classes, sides of 48 to 200 px; the kinds of file take turns: JPEG, greyscale JPEG, CMYK JPEG, PNG
    with alpha, progressive JPEG, palette PNG, WebP. The same call gives the same pictures.
    """
    for name, path in PICTURES.items():
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for split, count in (("train", per_class), ("val", max(2, per_class // 3))):
            directory = root / split / name
            directory.mkdir(parents=True)
            for row in range(count):
                draws = Draws("photos", name, split, row)
                save(crop(picture, draws), KINDS[row % len(KINDS)], directory / f"{name}_{row:03d}")


def crop(picture: Image.Image, draws: Draws) -> Image.Image:
    """A random rectangle of at least a quarter of each side, at most 200 px wide and high."""
    width = picture.width // 4 + draws.below(picture.width * 3 // 4)
    height = picture.height // 4 + draws.below(picture.height * 3 // 4)
    left, top = draws.below(picture.width - width + 1), draws.below(picture.height - height + 1)
    size = (48 + draws.below(153), 48 + draws.below(153))
    return picture.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))


def save(image: Image.Image, kind: str, stem: Path) -> Path:
    """Saves ``image`` (RGB) as one of KINDS and returns the file."""
    match kind:
        case "alpha":
            ramp = np.linspace(0, 255, image.width).astype(np.uint8)
            image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
            path = stem.with_suffix(".png")
            image.save(path)
        case "palette":
            path = stem.with_suffix(".png")
            image.quantize(64).save(path)
        case "webp":
            path = stem.with_suffix(".webp")
            image.save(path, quality=90)
        case _:
            path = stem.with_suffix(".JPEG")
            mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
            image.convert(mode).save(path, "JPEG", quality=90, progressive=kind == "progressive")
    return path
