"""Test sets as a model sees them: other labels, other crops."""

import pytest

from pipeline.data.test_sets import SetConfig
from pipeline.evaluation.sets import seen_under
from pipeline.views.recipe import Recipe, evaluation


def test_crop_and_interpolation_are_the_sets_own_and_else_the_recipes() -> None:
    recipe = Recipe(seed=3, size=32, crop_fraction=0.875)
    assert seen_under(SetConfig(), recipe) == evaluation(recipe)
    seen = seen_under(SetConfig(crop_fraction=0.9, interpolation="bilinear"), recipe)
    assert (seen.crop_fraction, seen.interpolation, seen.crop, seen.flip) == (0.9, "bilinear", "center", 0.0)
    with pytest.raises(ValueError, match="the real labels are of ImageNet's validation split"):
        SetConfig(source="folder", labels="real")
