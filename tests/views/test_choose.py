"""choose: the recipe as data, with timm's policies and distributions and no global generator."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_augment

from bench.proofs import statistics
from pipeline.runtime.config import validate
from pipeline.runtime.errors import UsageError
from pipeline.views import policies
from pipeline.views.chance import Draws
from pipeline.views.choose import choose
from pipeline.views.recipe import Recipe, evaluation

DEIT = Recipe(seed=3, size=224)


@pytest.mark.parametrize("name", policies.EVERY_OP)
def test_an_ops_argument_is_timms_for_every_level_and_both_signs(name: str) -> None:
    hparams = {"img_mean": (124, 116, 104)}
    for level in (0.0, 0.1, 1.0, 3.3333, 5.0, 7.77, 9.0, 9.999999, 10.0, 17.0):
        level_to_arg = timm_augment.LEVEL_TO_ARG[name]
        theirs = {level_to_arg(level, hparams) if level_to_arg else () for _ in range(40)}
        ours = {policies.arguments(name, level, sign) for sign in (1.0, -1.0)}
        assert ours == theirs
        assert {type(v) for given in ours for v in given} == {type(v) for given in theirs for v in given}


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


@pytest.mark.parametrize("policy", statistics.POLICIES)
def test_timm_reads_the_policy_string_as_we_do(policy: str) -> None:
    parsed = policies.parse(policy)
    assert parsed is not None
    if policy.startswith("rand"):
        theirs = timm_augment.rand_augment_transform(policy, {"img_mean": (0, 0, 0)})
        groups, layers = [[op] for op in theirs.ops], theirs.num_layers
    else:
        groups, layers = timm_augment.auto_augment_transform(policy, {"img_mean": (0, 0, 0)}).policy, 1
    steps = [[(op.name, op.prob, op.magnitude) for op in group] for group in groups]
    assert [[(s.name, s.probability, s.magnitude) for s in group] for group in parsed.groups] == steps
    assert parsed.layers == layers
    assert parsed.std == groups[0][0].magnitude_std


def test_weighted_layers_are_drawn_without_replacement() -> None:
    policy = policies.parse("rand-m9-n15-p1-tweights-inc1")
    assert policy is not None
    names = [name for name, _ in policies.choose_ops(policy, Draws("a"))]
    assert len(set(names)) == len(names) == 15


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


def test_colour_jitter_follows_3_augment_as_in_timm() -> None:
    recipe = Recipe(seed=0, size=32, policy="3a", color_jitter=0.3)
    ops = choose(recipe, "a", 0, 64, 64).ops
    assert ops[0][0] in {"Solarize", "Desaturate", "GaussianBlur"}
    assert {name for name, _ in ops[1:]} == {"Brightness", "Contrast", "Color"}
