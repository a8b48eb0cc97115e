"""The statistics of choices: they do not differ from timm's, and see a recipe that is slightly off."""

import random

from PIL import Image

from bench.proofs import statistics
from pipeline.views.choose import choose
from pipeline.views.recipe import Recipe

DEIT = Recipe(seed=3, size=224)


def test_choices_do_not_differ_from_timms_in_distribution() -> None:
    found = statistics.run(1500, DEIT)
    assert len(found) > 80
    assert min(p for _, p in found) * len(found) > 0.01


def test_the_statistics_see_a_recipe_that_is_slightly_off() -> None:
    off = Recipe(seed=3, size=224, scale=(0.15, 1.0))
    tests = statistics.Tests()
    random.seed(1)
    views = [choose(off, f"sample {i}", 0, 375, 500) for i in range(4000)]
    crop = statistics.RandomResizedCropAndInterpolation.get_params
    image = Image.new("L", (500, 375))
    theirs = [crop(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    tests.numbers("area", [v.box[2] * v.box[3] for v in views], [h * w for _, _, h, w in theirs])
    tests.categories("flip", [v.flip for v in views], [i % 100 < 44 for i in range(4000)])
    assert all(p < 1e-4 for _, p in tests.found)
