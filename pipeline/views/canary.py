"""The pixel canary in a cache's identity: one digest of the views that this machine's libraries draw of a recipe.

A seed does not determine a view across library versions: Pillow 12.3 and 13.0 resize 6 to 9 % of random bicubic crops
differently, without a word. Kernels draw like Pillow 13 with any Pillow, but libraries decode. So every step of a view is run
on fixed pictures, with sizes, ops and settings that the recipe could use, and its result hashed. Machines with the same canary
make the same cache.

The pictures in ``canary_images`` are procedural (1/f noise with hard edges, ``bench/canary_images.py``): JPEGs of every
chroma subsampling, progressive, grey and CMYK, 32 to 500 px.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import xxhash

from pipeline.base import files
from pipeline.runtime.errors import IntegrityError
from pipeline.views.chance import Draws
from pipeline.views.choose import View, choose
from pipeline.views.draw import decode, draw
from pipeline.views.finish import finish, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.policies import EVERY_OP, arguments
from pipeline.views.recipe import Erase, Mix, Recipe

_IMAGES = Path(__file__).with_name("canary_images")
# New pictures change this line, and so reruns what depends on this module.
_IMAGES_SHA256 = "5ec784bb31dad46a299715e3148a4b96fab1dd41a996572884c9cfe0342dfff1"
_CROPS, _CHOICES, _BLOCKS, _BLOCK = 256, 1024, 8, 16  # 8 blocks of 16 are 64 pairs
_LEVELS = (0.0, 2.5, 5.0, 9.3, 10.0)


def views_canary(recipe: Recipe, device: torch.device) -> str:
    """sha256 in hex of ``part_digests``: 0.7 s for a recipe at 224 px on one core."""
    return files.digest(part_digests(recipe, device))


def part_digests(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """A digest of each part: decode, choices, pairs, crops, ops, and finished pairs made on ``device``.

    Only ``crops`` resizes, so only it is known to depend on Pillow's version.
    """
    images = pictures()
    return {
        "decode": _digest(images),
        "choices": files.digest(
            [repr(choose(recipe, f"canary {i % 64}", i // 64, 375 + i % 7, 500 - i % 11)) for i in range(_CHOICES)]
        ),
        "pairs": files.digest([repr(_pairing(recipe, i)) for i in range(_CHOICES // _BLOCK)]),
        "crops": _digest(_drawn(recipe, [_crop(recipe, images, i) for i in range(_CROPS)])),
        "ops": _digest(_drawn(recipe, _every_op(recipe, images))),
        "finished": _digest(_finished(recipe, images, device)),
    }


def pictures() -> list[np.ndarray]:
    """The fixed pictures as RGB, uint8 (H, W, 3), in the order of their names."""
    contents = {path.name: path.read_bytes() for path in sorted(_IMAGES.glob("*.jpg"))}
    found = hashlib.sha256(b"".join(contents.values())).hexdigest()
    if found != _IMAGES_SHA256:
        raise IntegrityError(
            f"{_IMAGES}: expected pictures of sha256 {_IMAGES_SHA256}, found {found}; restore them with git"
        )
    return [decode(content, name) for name, content in contents.items()]


def _digest(arrays: list[np.ndarray]) -> str:
    state = xxhash.xxh3_128()
    for array in arrays:
        state.update(repr(array.shape).encode("ascii"))
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _pairing(recipe: Recipe, i: int) -> list[object]:
    pairs = pair(recipe, "canary", i, 15 + i % 2)
    return [pairs.pairs.tolist(), pairs.lam.tolist(), pairs.box.tolist()]


def canary_views(recipe: Recipe) -> list[tuple[np.ndarray, View]]:
    """The views behind the digests ``crops`` and ``ops``, each with its picture."""
    images = pictures()
    return [_crop(recipe, images, i) for i in range(_CROPS)] + _every_op(recipe, images)


def _drawn(recipe: Recipe, chosen: list[tuple[np.ndarray, View]]) -> list[np.ndarray]:
    return [draw(image, view, recipe) for image, view in chosen]


def _crop(recipe: Recipe, images: list[np.ndarray], i: int) -> tuple[np.ndarray, View]:
    """A random crop by the recipe's rule; a rule without a random size gets a picture of random size."""
    image = images[i % len(images)]
    if recipe.crop != "random_resized":
        draws = Draws("canary crop", i)
        width, height = (max(8, round(side * draws.uniform(0.25, 1.0))) for side in image.shape[1::-1])
        image = image[:height, :width]  # all pictures have at least 32 px
    view = choose(recipe, f"canary crop {i}", 0, *image.shape[:2])
    return image, View(view.box, view.scaled, view.window, view.flip, (), (), 0)


def _window(recipe: Recipe, images: list[np.ndarray], i: int, ops: tuple = ()) -> tuple[np.ndarray, View]:
    """R x R pixels of a picture, never resized, with ``ops``."""
    image, draws = images[i % len(images)], Draws("canary window", i)
    height, width = image.shape[:2]
    top, left = draws.below(height), draws.below(width)
    place = (top - recipe.size // 2, left - recipe.size // 2)
    return image, View((0, 0, height, width), (height, width), place, bool(i % 2), ops, (), 0)


def _every_op(recipe: Recipe, images: list[np.ndarray]) -> list[tuple[np.ndarray, View]]:
    ops = [(name, arguments(name, level, sign)) for name in EVERY_OP for level in _LEVELS for sign in (-1.0, 1.0)]
    return [_window(recipe, images, i, (op,)) for i, op in enumerate(dict.fromkeys(ops))]


def _finished(recipe: Recipe, images: list[np.ndarray], device: torch.device) -> list[np.ndarray]:
    """64 pairs with erasing in two of three views and mixing in all, even if the recipe has neither."""
    often = Erase.model_validate({**recipe.erase.model_dump(), "probability": 0.67})
    mix = recipe.mix if recipe.mix.on else Mix(mixup=0.8, cutmix=1.0)
    busy = Recipe.model_validate({**recipe.model_dump(), "erase": often, "mix": mix})
    finished = []
    for block in range(_BLOCKS):
        rows = range(block * _BLOCK, (block + 1) * _BLOCK)
        views = [choose(busy, f"canary finish {i}", 0, 100, 100) for i in rows]
        plan = finish_plan(views, pair(busy, f"canary {block}", 0, _BLOCK), busy.erase.count).to(device)
        pixels = torch.from_numpy(np.stack(_drawn(recipe, [_window(recipe, images, i) for i in rows]))).to(device)
        finished.append(finish(pixels, plan, busy).cpu().numpy())
    return finished
