"""choose: the recipe as data, with timm's policies and distributions and no global generator."""

import random

import numpy as np
import pytest
import torch

from pipeline.runtime.config import validate
from pipeline.views.choose import choose
from pipeline.views.recipe import Recipe, evaluation

DEIT = Recipe(seed=3, size=224)


def test_views_depend_on_seed_key_view_and_image_size_and_on_nothing_else() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    forward = [choose(DEIT, "a", view, 375, 500) for view in range(50)]
    backward = [choose(DEIT, "a", view, 375, 500) for view in reversed(range(50))][::-1]
    assert forward == backward
    assert len(set(forward)) == 50
    for other in (
        choose(Recipe(seed=4, size=224), "a", 0, 375, 500),
        choose(DEIT, "b", 0, 375, 500),
        choose(DEIT, "a", 0, 500, 375),
    ):
        assert other != forward[0]
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3000), (3000, 2), (8, 8), (375, 500)])
@pytest.mark.parametrize("crop", ["random_resized", "random_padded", "center"])
def test_boxes_of_any_image_lie_inside_it_and_windows_inside_the_padding(crop: str, height: int, width: int) -> None:
    recipe = validate(Recipe, {"seed": 0, "size": 32, "crop": crop}, "views")
    for view in (choose(recipe, "a", v, height, width) for v in range(200)):
        top, left, h, w = view.box
        assert 0 <= top < top + h <= height and 0 <= left < left + w <= width
        for start, length in zip(view.window, view.scaled, strict=True):
            assert -4 <= start <= length - 32 + 4
        assert all(t + h < 33 and x + w < 33 for t, x, h, w in view.erase)


def test_an_evaluation_view_holds_no_chance() -> None:
    recipe = evaluation(DEIT)
    views = {choose(recipe, key, view, 375, 500) for key in "abc" for view in range(20)}
    assert len(views) == 1
    assert views.pop().ops == ()
    assert recipe == evaluation(Recipe(seed=9, size=224)), "a cache of evaluation answers serves every seed"


def test_colour_jitter_follows_3_augment_as_in_timm() -> None:
    recipe = Recipe(seed=0, size=32, policy="3a", color_jitter=0.3)
    ops = choose(recipe, "a", 0, 64, 64).ops
    assert ops[0][0] in {"Solarize", "Desaturate", "GaussianBlur"}
    assert {name for name, _ in ops[1:]} == {"Brightness", "Contrast", "Color"}
