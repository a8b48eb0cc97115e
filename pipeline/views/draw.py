"""Draw a view as its decisions say: step 2 of choose, draw, finish, engine ``pil``.

Bit-identical to timm's and torchvision's own functions on PIL images with the same numbers. Holds no chance.
"""

import numpy as np
from PIL import Image

from pipeline.views.choose import View
from pipeline.views.policies import apply
from pipeline.views.recipe import Recipe

_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def draw(image: Image.Image, view: View, recipe: Recipe) -> np.ndarray:
    """The pixels of ``view``, uint8 (3, R, R), from an RGB ``image`` of the size that the view was chosen for.

    In timm's order: crop and resize, flip, policy, colour jitter (``timm.data.transforms_imagenet_train``).
    """
    size, resample = recipe.size, _RESAMPLE[recipe.interpolation]
    top, left, height, width = view.box
    if not (top >= 0 and left >= 0 and top + height <= image.height and left + width <= image.width):
        raise ValueError(f"view chosen for another image: box {view.box}, image {image.height} x {image.width}")
    if (width, height) != image.size:  # never resize(box=): it reads pixels outside the box
        image = image.crop((left, top, left + width, top + height))
    if view.scaled != (height, width):
        image = image.resize((view.scaled[1], view.scaled[0]), resample)
    if view.scaled != (size, size) or view.window != (0, 0):
        top, left = view.window
        image = image.crop((left, top, left + size, top + size))
    if view.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    fill = tuple(min(255, round(255 * mean)) for mean in recipe.mean)
    for op in view.ops:
        image = apply(image, op, fill, resample)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
