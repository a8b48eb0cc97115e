"""draw: the pixels of timm's and torchvision's own functions for the same numbers."""

import numpy as np
import PIL
import pytest
import torchvision.transforms.functional as F
from PIL import Image
from timm.data import auto_augment as timm_augment
from timm.data import create_transform
from torchvision.transforms import InterpolationMode

from pipeline.data.shards import Sample
from pipeline.views import pillow
from pipeline.views.canary import pictures
from pipeline.views.choose import View, choose
from pipeline.views.draw import draw, draw_block
from pipeline.views.recipe import Recipe, evaluation
from tests.support.pictures import small_kinds

IMAGES = pictures()
MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
PIL_MODES = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def black_for_zero_bits(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """timm's posterize as it is with Pillow 12, which gives black for 0 bits; Pillow 13 raises ValueError."""
    return image.point(lambda value: value & ~(2 ** (8 - bits) - 1) & 255)


@pytest.fixture(autouse=True, params=["pil", "kernels"])
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "kernels" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("kernels draw as Pillow 13 does, and this one is older")
    monkeypatch.setenv("DISTIL_ENGINE", request.param)


def by_timm(pixels: np.ndarray, view: View, recipe: Recipe) -> np.ndarray:
    """The same view with torchvision's functional transforms and timm's op functions."""
    image = Image.fromarray(pixels)
    if recipe.crop == "random_resized":
        image = F.resized_crop(image, *view.box, [recipe.size] * 2, MODES[recipe.interpolation])
    else:
        pad = recipe.padding
        image = F.pad(F.resize(image, recipe.size, MODES[recipe.interpolation]), pad, 0, "constant")
        image = F.crop(image, view.window[0] + pad, view.window[1] + pad, recipe.size, recipe.size)
    if view.flip:
        image = F.hflip(image)
    fill = tuple(min(255, round(255 * x)) for x in recipe.mean)
    for name, given in view.ops:
        black = name.startswith("Posterize") and given[0] == 0
        op = black_for_zero_bits if black else timm_augment.NAME_TO_OP[name]
        image = op(image, *given, fillcolor=fill, resample=PIL_MODES[recipe.interpolation])
    return F.pil_to_tensor(image).numpy()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(seed=1, size=64, policy="rand-m9-n3-p0.9-mstd0.5-inc1"),
        Recipe(seed=2, size=48, interpolation="bilinear", policy="v0"),
        Recipe(seed=3, size=32, crop="random_padded", policy="original"),
        Recipe(seed=4, size=32, policy="", color_jitter=0.4),
        Recipe(seed=5, size=32, policy="3a", color_jitter=0.3),
    ],
    ids=lambda recipe: f"{recipe.crop}-{recipe.policy}",
)
def test_views_are_bit_identical_to_timms_own_functions(recipe: Recipe) -> None:
    seen = set()
    for i in range(150):
        image = IMAGES[i % len(IMAGES)]
        view = choose(recipe, f"sample {i}", 0, *image.shape[:2])
        pixels = draw(image, view, recipe)
        assert pixels.dtype == np.uint8 and pixels.shape == (3, recipe.size, recipe.size)
        assert pixels.flags.c_contiguous
        assert np.array_equal(pixels, by_timm(image, view, recipe)), view
        seen |= {name for name, _ in view.ops}
    assert len(seen) >= 3


@pytest.mark.parametrize("size", [32, 64, 96])
def test_an_evaluation_view_is_timms_evaluation_transform(size: int) -> None:
    recipe = evaluation(Recipe(seed=0, size=size, crop_fraction=0.875))
    transform = create_transform(size, interpolation="bicubic", crop_pct=0.875, use_prefetcher=True)
    for image in IMAGES:
        view = choose(recipe, "any", 0, *image.shape[:2])
        assert np.array_equal(draw(image, view, recipe), transform(Image.fromarray(image)).numpy())


def test_what_padding_adds_is_black() -> None:
    recipe = Recipe(seed=0, size=32, crop="random_padded", policy="", flip=0.0)
    white = np.full((32, 32, 3), 255, np.uint8)
    view = next(v for v in (choose(recipe, "a", i, 32, 32) for i in range(500)) if v.window == (-4, 4))
    pixels = draw(white, view, recipe)
    assert not pixels[:, :4].any() and not pixels[:, :, 28:].any()
    assert (pixels[:, 4:, :28] == 255).all()


@pytest.mark.parametrize("name", ["Posterize", "PosterizeIncreasing"])
def test_zero_bits_are_black_on_every_pillow(name: str) -> None:
    op = (name, (0,))
    view = View((0, 0, 90, 90), (32, 32), (0, 0), False, (op,), (), 0)
    assert not draw(IMAGES[0], view, Recipe(seed=0, size=32)).any()


def test_a_view_chosen_for_another_image_is_refused() -> None:
    recipe = Recipe(seed=0, size=32, scale=(0.9, 1.0))
    with pytest.raises(ValueError, match="another image"):
        draw(np.zeros((40, 40, 3), np.uint8), choose(recipe, "a", 0, 400, 400), recipe)


def test_a_block_is_drawn_in_place_and_only_where_it_fits() -> None:
    recipe = Recipe(seed=3, size=24)
    samples = [Sample(f"k{i}", 0, data) for i, data in enumerate(small_kinds().values())]
    out = np.zeros((2, len(samples), 3, 24, 24), np.uint8)
    chosen = draw_block(samples, recipe, 5, out)
    assert [len(views) for views in chosen] == [len(samples)] * 2
    pixels = pillow.decode(samples[3].data, "x")
    assert chosen[1][3] == choose(recipe, "k3", 6, *pixels.shape[:2])
    if int(PIL.__version__.split(".")[0]) >= 13:
        expected = np.empty((3, 24, 24), np.uint8)
        pillow.draw(pixels, chosen[1][3], recipe, expected)
        assert np.array_equal(out[1, 3], expected)
    for wrong in (
        out[:, :1],
        out[..., :-1],
        out.astype(np.int8),
        np.zeros((2, len(samples), 3, 24, 48), np.uint8)[..., ::2],
    ):
        with pytest.raises(ValueError, match="expected"):
            draw_block(samples, recipe, 5, wrong)
