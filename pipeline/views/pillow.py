"""Views by Pillow and timm's own functions: the implementation to read, which defines the pixels.

With the same numbers it has the bits of timm's and torchvision's functions on PIL images. It draws no random numbers.
"""

import numpy as np
from PIL import Image

from pipeline.data import images
from pipeline.views.choose import View
from pipeline.views.policies import apply
from pipeline.views.recipe import Recipe

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def decode(data: bytes, name: str, rule: images.Rule = images.STORED) -> np.ndarray:
    """The image in ``data`` as RGB, uint8 (H, W, 3). Raises Undecodable."""
    return np.array(images.decode_image(data, name, rule))


def draw(pixels: np.ndarray, view: View, recipe: Recipe, out: np.ndarray) -> None:
    """Draws ``view`` of the image ``pixels``, uint8 (H, W, 3), into ``out``, uint8 (3, R, R).

    In timm's order: crop and resize, flip, policy, colour jitter (``timm.data.transforms_imagenet_train``).
    """
    size, resample = recipe.size, RESAMPLE[recipe.interpolation]
    image = Image.fromarray(pixels)
    top, left, height, width = view.box
    if (width, height) != image.size:  # never resize(box=): it reads pixels outside the box
        image = image.crop((left, top, left + width, top + height))
    if view.scaled != (height, width):
        image = image.resize((view.scaled[1], view.scaled[0]), resample)
    if view.scaled != (size, size) or view.window != (0, 0):
        top, left = view.window
        image = image.crop((left, top, left + size, top + size))
    if view.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for op in view.ops:
        image = apply(image, op, recipe.fill, resample)
    out[:] = np.asarray(image).transpose(2, 0, 1)
