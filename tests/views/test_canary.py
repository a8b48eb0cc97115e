"""The canary, and the golden file that fails when pixels or decisions change and VIEWS_VERSION does not.

After raising VIEWS_VERSION: python -m tests.views.test_canary        # adds this version to tests/golden.json Parts
that are known to differ between versions of Pillow are kept per version; python -m tests.views.test_canary under
another Pillow adds its own, and refuses to change what is there.
"""

import json
from pathlib import Path

import PIL
import pytest
import xxhash

from pipeline.base.engine import kernels
from pipeline.runtime.machine import device
from pipeline.views.canary import part_digests, views_canary
from pipeline.views.draw import draw
from pipeline.views.recipe import VIEWS_VERSION, Erase, Mix, Recipe, evaluation
from tests.support.hard_views import whole_levels

GOLDEN = Path(__file__).parents[1] / "golden.json"
BY_PILLOW = ("crops",)
PILLOW = "13.0" if kernels() else ".".join(PIL.__version__.split(".")[:2])
DEIT = Recipe(seed=1, size=64, mix=Mix(mixup=0.8, cutmix=1.0))
RECIPES = {
    "deit at 64 px": DEIT,
    "padded at 32 px": Recipe(
        seed=2**62,
        size=32,
        crop="random_padded",
        interpolation="bilinear",
        policy="v0",
        erase=Erase(mode="rand", count=3),
        mix=Mix(mixup=0.2, cutmix_minmax=(0.2, 0.8), probability=0.9),
    ),
    "jitter at 48 px": Recipe(seed=3, size=48, policy="", color_jitter=0.4, erase=Erase(mode="const")),
    "evaluation at 96 px": evaluation(Recipe(seed=4, size=96)),
}


def test_pixels_and_decisions_change_only_with_the_version() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert str(VIEWS_VERSION) in golden, (
        "VIEWS_VERSION is new: run python -m tests.views.test_canary and commit golden.json"
    )
    expected = golden[str(VIEWS_VERSION)]
    found = {name: part_digests(recipe, device()) for name, recipe in RECIPES.items()}
    changed = [
        f"{name}: {part}"
        for name, made in found.items()
        for part, digest in made.items()
        if part not in BY_PILLOW and digest != expected["parts"][name][part]
    ]
    assert not changed, f"raise VIEWS_VERSION, or undo the change of {changed}"
    if PILLOW not in expected["pillow"]:
        pytest.skip(f"golden.json has no resized crops for Pillow {PILLOW}: run python -m tests.views.test_canary")
    for name, made in found.items():
        for part in BY_PILLOW:
            assert made[part] == expected["pillow"][PILLOW][name][part], f"raise VIEWS_VERSION: {name}: {part}"


def test_whole_levels_on_pictures_of_few_values_are_drawn_as_ever() -> None:
    """Where results lie on the edge between two values, and one fused operation shows; the canary's photographs have few
    such places. Nothing is resized, so any Pillow draws the same."""
    state = xxhash.xxh3_128()
    for pixels, view, recipe in whole_levels(64):
        state.update(draw(pixels, view, recipe).data)
    assert state.hexdigest() == "4d492c32b837aa9367e31a509741bf1c"


def test_the_canary_repeats_and_names_the_recipe() -> None:
    first = views_canary(DEIT, device())
    assert first == views_canary(DEIT, device())
    assert first != views_canary(DEIT.model_copy(update={"interpolation": "bilinear"}), device())


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"interpolation": "bilinear"}, {"crops", "ops"}),
        ({"mean": (0.5, 0.5, 0.5)}, {"ops", "finished"}),
        ({"seed": 2}, {"choices", "pairs", "crops", "finished"}),
        ({"mix": Mix(mixup=0.8)}, {"pairs", "finished"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_part_watches_its_own_step(change: dict, moved: set[str]) -> None:
    before, after = part_digests(DEIT, device()), part_digests(DEIT.model_copy(update=change), device())
    assert {part for part in before if before[part] != after[part]} == moved


def write() -> None:
    """Adds what is missing for this version and this Pillow to golden.json, and changes nothing in it."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    found = {name: part_digests(recipe, device()) for name, recipe in RECIPES.items()}
    mine = golden.setdefault(str(VIEWS_VERSION), {"made_with_pillow": PIL.__version__, "parts": {}, "pillow": {}})
    resized = mine["pillow"].setdefault(PILLOW, {})
    for name, made in found.items():
        mine["parts"].setdefault(name, {part: made[part] for part in made if part not in BY_PILLOW})
        resized.setdefault(name, {part: made[part] for part in BY_PILLOW})
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
