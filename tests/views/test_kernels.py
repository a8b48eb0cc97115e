"""Two implementations of a view, the same bits: kernels beside Pillow, decoding, memory, numba's cache."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.base.compiled import known_picture
from pipeline.data.resize import KNOWN_RESIZED, known_resized
from pipeline.views import decode as fast
from pipeline.views import kernels, pillow
from pipeline.views.chance import Draws
from pipeline.views.choose import View, choose
from pipeline.views.policies import EVERY_OP, arguments
from pipeline.views.recipe import Recipe, evaluation
from tests.support.hard_views import whole_levels
from tests.support.marks import pillow_13
from tests.support.pictures import small_kinds

SMALL = small_kinds()


def both(pixels: np.ndarray, view: View, recipe: Recipe) -> list[np.ndarray]:
    made = []
    for module in (pillow, kernels):
        out = np.full((3, recipe.size, recipe.size), 77, np.uint8)
        module.draw(pixels, view, recipe, out)
        made.append(out)
    return made


@pillow_13
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("name", EVERY_OP)
def test_every_op_at_every_level(name: str, interpolation: str) -> None:
    recipe = Recipe(seed=0, size=33, interpolation=interpolation)
    for i, kind in enumerate(("4:2:0", "portrait", "tiny", "palette")):
        pixels = fast.decode(SMALL[kind], kind)
        for level in (0.0, 3.3, 9.0, 10.0, 23.7, 60.0):
            for sign in (-1.0, 1.0):
                box = (0, 0, *pixels.shape[:2])
                ops = ((name, arguments(name, level, sign)),)
                one, two = both(pixels, View(box, (33, 33), (0, 0), bool(i % 2), ops, (), 0), recipe)
                assert np.array_equal(one, two), (level, sign, i)


@pillow_13
def test_every_op_at_whole_levels_on_pictures_of_few_values() -> None:
    """Where results lie on the edge between two values, and one fused operation shows."""
    for pixels, view, recipe in whole_levels(64):
        one, two = both(pixels, view, recipe)
        assert np.array_equal(one, two), (view.ops, recipe.interpolation)


@pillow_13
def test_any_crop_window_and_size_is_pillows() -> None:
    picture = np.array(Image.open(io.BytesIO(SMALL["portrait"])).convert("RGB"))
    for i in range(400):
        draws = Draws("crops", i)
        height, width = 1 + draws.below(picture.shape[0]), 1 + draws.below(picture.shape[1])
        if i % 4 == 0:
            height = 1 + draws.below(12)
        elif i % 4 == 1:
            width = 1 + draws.below(12)
        box = (draws.below(picture.shape[0] - height + 1), draws.below(picture.shape[1] - width + 1), height, width)
        scaled = (1 + draws.below(300), 1 + draws.below(300))
        window = (draws.below(scaled[0] + 48) - 48, draws.below(scaled[1] + 48) - 48)
        recipe = Recipe(seed=0, size=48, interpolation=("bicubic", "bilinear")[i // 4 % 2])
        one, two = both(picture, View(box, scaled, window, bool(i // 8 % 2), (), (), 0), recipe)
        assert np.array_equal(one, two), (box, scaled, window)


def test_an_evaluation_view_of_a_thread_of_pixels_needs_no_memory() -> None:
    """8,000 x 1 px scaled whole would be 256 x 2,048,000 px: 2.8 GB with Pillow."""
    code = """
import resource, numpy as np
from pipeline.views import kernels
from pipeline.views.choose import choose
from pipeline.views.recipe import Recipe, evaluation
recipe, out = evaluation(Recipe(seed=0, size=224)), np.empty((3, 224, 224), np.uint8)
kernels.known_view()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 8000, 3), (8000, 1, 3)):
    kernels.draw(np.full(shape, 9, np.uint8), choose(recipe, "a", 0, *shape[:2]), recipe, out)
    assert (out == 9).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    kilobytes = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 40_000


def test_the_smallest_images_are_their_colour_everywhere() -> None:
    recipe = evaluation(Recipe(seed=0, size=32))
    for shape in ((1, 1), (3, 1), (1, 50)):
        one, two = both(np.full((*shape, 3), 200, np.uint8), choose(recipe, "a", 0, *shape), recipe)
        assert np.array_equal(one, two) and (two == 200).all()


@pillow_13
def test_the_known_pixels_are_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    resized = Image.fromarray(known_picture(41, 23)).resize((90, 17), Image.Resampling.BICUBIC)
    assert np.asarray(resized).tobytes() == known_resized()
    assert hashlib.sha256(known_resized()).hexdigest() == KNOWN_RESIZED
    mine = kernels.known_view()
    monkeypatch.setattr(kernels, "draw", pillow.draw)
    assert kernels.known_view() == mine and hashlib.sha256(mine).hexdigest() == kernels.KNOWN_VIEW
