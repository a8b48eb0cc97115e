"""Views of whole recipes and of single ops, where two implementations that differ would show it."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from pipeline.views import device, draw
from pipeline.views.choose import View, choose
from pipeline.views.policies import EVERY_OP, arguments
from pipeline.views.recipe import Recipe, evaluation
from tests.support.pictures import every_kind

AT_ONCE = 8  # views of a picture, which is decoded once
SELDOM = {"large": 100, "panorama": 5}  # 12 Mpx and 4 Mpx: in turn only every so many rounds


@functools.cache
def recipes(size: int) -> tuple[Recipe, ...]:
    """The recipes that the views of a picture have in turn."""
    deit = (
        Recipe(seed=11, size=size, crop="random_padded", mean=(0.49, 0.48, 0.45)) if size <= 32 else
        Recipe(seed=11, size=size)
    )  # fmt: skip
    return (
        deit,
        Recipe(seed=1, size=size, policy="rand-m7-n4-mstd101"),
        deit,
        Recipe(seed=2, size=size, policy="v0", interpolation="bilinear"),
        deit,
        Recipe(seed=3, size=size, policy="3a", color_jitter=0.4),
        deit,
        Recipe(seed=4, size=size, crop="random_padded", policy="original"),
    )


def view_of(number: int, turn: int, height: int, width: int, size: int) -> tuple[View, Recipe]:
    """View ``number``, the ``turn``-th of its picture; one in sixteen is an evaluation view, one an op by itself."""
    recipe = recipes(size)[turn]
    view = choose(recipe, f"sample {number // 3}", number % 3, height, width)
    if number % 16 == 1:
        chosen = evaluation(recipe)
        return choose(chosen, "any", 0, height, width), chosen
    if number % 16 == 3:
        name = EVERY_OP[number // 16 % len(EVERY_OP)]
        level, sign = (number // 16 // len(EVERY_OP) * 0.7) % 10, 1.0 if number // 32 % 2 else -1.0
        view = view._replace(ops=((name, arguments(name, level, sign)),))
    return view, recipe


def rounds(views: int) -> list[tuple[str, list[int]]]:
    """Which picture makes which views."""
    turns, names, number = [], list(every_kind()), 0
    for i in range(views):
        name = names[i % len(names)]
        if i // len(names) % SELDOM.get(name, 1) == 0:
            turns.append((name, list(range(number, min(number + AT_ONCE, views)))))
            number += AT_ONCE
        if number >= views:
            break
    return turns


def whole_levels(size: int) -> Iterator[tuple[np.ndarray, View, Recipe]]:
    """Every op at whole levels, on pictures of R x R px and few values."""
    generator = np.random.default_rng(3)
    ramp = np.add.outer(np.arange(size) * 3, np.arange(size))[..., None] + [0, 5, 9]
    kinds = (
        np.clip(ramp, 0, 255),
        generator.integers(0, 2, ramp.shape) * 255,
        generator.integers(0, 26, ramp.shape) * 10,
    )
    plain = Recipe(seed=0, size=size, policy="", mean=(0.49, 0.1, 0.9))
    for recipe, name in itertools.product((plain, plain.model_copy(update={"interpolation": "bilinear"})), EVERY_OP):
        chosen = dict.fromkeys(arguments(name, float(level), sign) for level in range(11) for sign in (1.0, -1.0))
        for pixels, of in itertools.product(kinds, chosen):
            yield (
                pixels.astype(np.uint8),
                View((0, 0, size, size), (size, size), (0, 0), False, ((name, of),), (), 0),
                recipe,
            )


def random_views(size: int, views: int) -> Iterator[tuple[np.ndarray, View, Recipe]]:
    for name, numbers in rounds(views):
        pixels = draw.decode(every_kind()[name], name)
        for turn, number in enumerate(numbers):
            yield pixels, *view_of(number, turn, pixels.shape[0], pixels.shape[1], size)


def differing(made: device.Drawer, some: list[tuple[np.ndarray, View]], strides: tuple[int, ...]) -> np.ndarray:
    """Which of ``some`` the GPU's kernels draw otherwise than numba's: bool (V,)."""
    expected = np.stack([draw.draw(pixels, view, made.recipe) for pixels, view in some])
    differ = np.zeros(len(some), bool)
    for stride in strides:
        if made.device.type == "cpu":
            made.kernels("set_stride", 1, 1, stride)
        differ |= (
            (device.draw_all(made, [(pixels, [view]) for pixels, view in some]) != expected)
            .reshape(len(some), -1)
            .any(1)
        )
    return differ
