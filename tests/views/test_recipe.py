"""Recipes that cannot be replayed are refused by name."""

import pytest

from pipeline.runtime.config import validate
from pipeline.runtime.errors import UsageError
from pipeline.views.recipe import Recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "rand-m9-inc"}, ["views.policy", "unknown policy", "rand-m9-inc"]),
        ({"policy": "augmix-m5"}, ["views.policy", "unknown policy"]),
        ({"policy": "rand-m9-m5"}, ["views.policy"]),
        ({"policy": "rand-n16-tweights"}, ["views.policy", "16 layers", "15 ops"]),
        ({"color_jitter": 0.3}, ["color_jitter 0.3", "rand-m9-mstd0.5-inc1", "policy: ''"]),
        ({"scale": [0.5, 0.1]}, ["scale", "0.5"]),
        ({"std": [0.2, 0.0, 0.2]}, ["std"]),
        ({"size": "224"}, ["views.size"]),
        ({"engine": "pil"}, ["views.engine", "unknown key"]),
        ({"mix": {"cutmix_minmax": [0.8, 0.2]}}, ["cutmix_minmax"]),
        ({"size": 8, "mix": {"cutmix_minmax": [0.2, 0.21]}}, ["cutmix_minmax", "size 8"]),
        ({"erase": {"min_area": 0.5}}, ["min_area 0.5", "max_area"]),
        ({"policy": "rand-m9-n999"}, ["views.policy", "999 layers"]),
        ({"ratio": [1.0e-320, 1.0]}, ["ratio: expected 0.01", "1e-320"]),
        ({"ratio": [1.0, float("inf")]}, ["views.ratio.1", "inf"]),
        ({"crop": "center", "crop_fraction": 1e-6}, ["views.crop_fraction", "1e-06"]),
        ({"erase": {"min_aspect": 1.0e-320}}, ["views.erase.min_aspect"]),
        ({"erase": {"prob": 0.5}}, ["views.erase.prob", "unknown key"]),
    ],
)
def test_a_recipe_that_cannot_be_replayed_is_refused_by_name(change: dict, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        validate(Recipe, {"seed": 0, "size": 224, **change}, "views")
    assert all(word in str(caught.value) for word in words), caught.value
