"""Two implementations of a view, the same bits: kernels beside Pillow, decoding, memory, numba's cache."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from bench.proofs import engines
from pipeline.base import compiled
from pipeline.base.engine import kernels as kernels_draw
from pipeline.data import images
from pipeline.data.resize import Room, resize, resize_whole
from pipeline.data.shards import Sample
from pipeline.runtime.errors import UsageError
from pipeline.views import decode as fast
from pipeline.views import kernels, pillow
from pipeline.views.chance import Draws
from pipeline.views.choose import View, choose
from pipeline.views.draw import compile_kernels, draw_block
from pipeline.views.policies import EVERY_OP, arguments
from pipeline.views.recipe import Recipe, evaluation

PICTURES = engines.pictures()
SMALL = {name: data for name, data in PICTURES.items() if name not in ("large", "panorama")}
thirteen = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 13 defines the pixels, and this one is older"
)


def both(pixels: np.ndarray, view: View, recipe: Recipe) -> list[np.ndarray]:
    made = []
    for module in (pillow, kernels):
        out = np.full((3, recipe.size, recipe.size), 77, np.uint8)
        module.draw(pixels, view, recipe, out)
        made.append(out)
    return made


@thirteen
@pytest.mark.parametrize("size", [24, 225])
def test_whole_views_of_every_kind_of_picture_are_equal(size: int) -> None:
    """Small size of bench/proofs/engines.py."""
    views = 16 * len(PICTURES)
    by_pil, by_kernels = engines.digests(size, views, "pil"), engines.digests(size, views, "kernels")
    assert np.array_equal(by_pil, by_kernels)
    assert len(np.unique(by_pil)) > views / 2


@thirteen
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


@thirteen
def test_every_op_at_whole_levels_on_pictures_of_few_values() -> None:
    """Where results lie on the edge between two values, and one fused operation shows."""
    for pixels, view, recipe in engines.whole_levels(64):
        one, two = both(pixels, view, recipe)
        assert np.array_equal(one, two), (view.ops, recipe.interpolation)


@thirteen
def test_any_crop_window_and_size_is_pillows() -> None:
    picture = np.array(Image.open(io.BytesIO(PICTURES["portrait"])).convert("RGB"))
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


@thirteen
def test_packing_resizes_as_pillow_13_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data = PICTURES["portrait"]
    made = []
    for engine in ("pil", "kernels"):
        monkeypatch.setenv("DISTIL_ENGINE", engine)
        made.append(images.prepare(data, "x", shorter=40).data)
    assert made[0] == made[1] != data


def test_vertical_pass_first_only_where_pillow_13_takes_it() -> None:
    """The one thing in which Pillow 12 and 13 differ, as numbers made with Pillow 13, so that any Pillow shows them."""
    y, x = np.mgrid[:200, :90]
    picture = np.stack([(x * y) % 256, (x * 7 + y * 13) % 256, (x * x + y) % 256], -1).astype(np.uint8)
    found = [int(resize_whole(picture, *size).astype(np.int64).sum()) for size in ((40, 30), (90, 30), (195, 89))]
    assert found == [453191, 1019165, 6546979], "Pillow 12: 453182, 1019165, 6547083"


def test_an_evaluation_view_of_a_thread_of_pixels_needs_no_memory() -> None:
    """8,000 x 1 px scaled whole would be 256 x 2,048,000 px: 2.8 GB with Pillow."""
    code = """
import resource, numpy as np
from pipeline.views import kernels
from pipeline.views.choose import choose
from pipeline.views.recipe import Recipe, evaluation
recipe, out = evaluation(Recipe(seed=0, size=224)), np.empty((3, 224, 224), np.uint8)
kernels.warm_up()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 8000, 3), (8000, 1, 3)):
    kernels.draw(np.full(shape, 9, np.uint8), choose(recipe, "a", 0, *shape[:2]), recipe, out)
    assert (out == 9).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    kilobytes = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 40_000


@pytest.mark.parametrize("name", SMALL)
def test_decoding_gives_pillows_pixels_and_refusals(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = PICTURES[name]
    assert np.array_equal(fast.decode(data, name), pillow.decode(data, name))
    draws = Draws("damage", name)
    for _ in range(25):  # damaged, or cut off
        harmed = bytearray(data)
        for _ in range(3):
            harmed[draws.below(len(data))] = draws.below(256)
        for bad in (bytes(harmed), data[: draws.below(len(data))], data[: -1 - draws.below(8)]):
            assert outcome(fast.decode, bad) == outcome(pillow.decode, bad)
    assert capfd.readouterr().err == "", "libjpeg's warnings are not for the terminal"


def outcome(decode: object, data: bytes) -> object:
    try:
        pixels = decode(data, "x")  # type: ignore[operator]
    except images.Undecodable:
        return "refused"
    return pixels.shape, pixels.tobytes()


def test_a_block_is_drawn_in_place_and_only_where_it_fits() -> None:
    recipe = Recipe(seed=3, size=24)
    samples = [Sample(f"k{i}", 0, data) for i, data in enumerate(SMALL.values())]
    out = np.zeros((2, len(samples), 3, 24, 24), np.uint8)
    chosen = draw_block(samples, recipe, 5, out)
    assert [len(views) for views in chosen] == [len(samples)] * 2
    pixels = pillow.decode(samples[3].data, "x")
    assert chosen[1][3] == choose(recipe, "k3", 6, *pixels.shape[:2])
    if kernels_draw() and int(PIL.__version__.split(".")[0]) >= 13:
        assert np.array_equal(out[1, 3], both(pixels, chosen[1][3], recipe)[0])
    for wrong in (
        out[:, :1],
        out[..., :-1],
        out.astype(np.int8),
        np.zeros((2, len(samples), 3, 24, 48), np.uint8)[..., ::2],
    ):
        with pytest.raises(ValueError, match="expected"):
            draw_block(samples, recipe, 5, wrong)


def test_who_draws_is_the_machines_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTIL_ENGINE", raising=False)
    assert kernels_draw()
    monkeypatch.setenv("DISTIL_ENGINE", "pil")
    assert not kernels_draw()
    monkeypatch.setenv("DISTIL_ENGINE", "cuda")
    assert kernels_draw()  # whatever the GPU leaves to the CPU
    monkeypatch.setenv("DISTIL_ENGINE", "numba")
    with pytest.raises(UsageError, match="expected kernels, pil or cuda, found 'numba'"):
        kernels_draw()
    code = "import sys; sys.modules['numba'] = None\nfrom pipeline.base.engine import kernels\nprint(kernels())"
    environment = {name: value for name, value in os.environ.items() if name != "DISTIL_ENGINE"}
    without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert without.stdout == "False\n"
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment | {"DISTIL_ENGINE": "kernels"}
    )
    assert "numba can't be imported" in asked.stderr


def test_machine_code_goes_to_a_place_of_this_user_even_where_home_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, pipeline.data.resize; print(os.environ['NUMBA_CACHE_DIR'])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    homes = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    for home, start in ((str(tmp_path), tmp_path / ".cache" / "offline-deit"), ("/proc/none", tmp_path)):
        run = [sys.executable, "-c", code]
        place = subprocess.run(
            run, capture_output=True, text=True, env=environment | homes | {"HOME": home}, check=True
        )
        assert place.stdout.startswith(str(start)) and Path(place.stdout.strip()).stat().st_mode & 0o077 == 0
    given = environment | {"NUMBA_CACHE_DIR": "/proc/none"}
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given).stderr
    assert "NUMBA_CACHE_DIR /proc/none: No such file or directory; name a folder to write to" in refused
    for variable in ("XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    first = compiled.cache_folder()
    assert first.is_relative_to(tmp_path / "XDG_CACHE_HOME")
    first.chmod(0o777)  # where others may write, their code would run
    assert not compiled.cache_folder().is_relative_to(tmp_path / "XDG_CACHE_HOME")


def test_the_first_start_says_that_it_compiles_and_the_second_loads(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "from pipeline.base.compiled import compile_ahead, kernel, misses\n"
        "@kernel\ndef more(x):\n    return x + 1\n"
        "compile_ahead(lambda: more(1))\nprint(misses())\n"
    )
    said = []
    for _ in range(2):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "code"), "PYTHONPATH": str(Path.cwd())}
        run = subprocess.run([sys.executable, tmp_path / "tiny.py"], capture_output=True, text=True, env=environment)
        said.append(run.stdout.splitlines())
    assert said[0][0].startswith("compiling the kernels") and said[0][1:] == ["1"] and said[1] == ["0"]


def test_no_worker_compiles() -> None:
    code = """
import json, multiprocessing
from pipeline.base.compiled import misses
from pipeline.views.draw import compile_kernels
if __name__ == "__main__":
    compile_kernels()
    found = [misses()]
    for way in ("fork", "forkserver"):
        with multiprocessing.get_context(way).Pool(1) as pool:
            pool.apply(compile_kernels)  # what a draw would compile
            found.append(pool.apply(misses))
    print(json.dumps(found))
"""
    compile_kernels()
    environment = os.environ | {"DISTIL_ENGINE": "kernels"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(run.stdout.splitlines()[-1]) == [0, 0, 0]


def test_rows_beyond_what_is_drawn_stay_as_they_are() -> None:
    out = np.full((3, 20, 20), 5, np.uint8)
    resize(np.zeros((9, 9, 3), np.uint8), (0, 0, 9, 9), (16, 16), (2, 2, 7, 6), True, True, out, (4, 3), Room())
    inside = np.zeros((20, 20), bool)
    inside[4:11, 3:9] = True
    assert not out[:, inside].any() and (out[:, ~inside] == 5).all()


def test_the_smallest_images_are_their_colour_everywhere() -> None:
    recipe = evaluation(Recipe(seed=0, size=32))
    for shape in ((1, 1), (3, 1), (1, 50)):
        one, two = both(np.full((*shape, 3), 200, np.uint8), choose(recipe, "a", 0, *shape), recipe)
        assert np.array_equal(one, two) and (two == 200).all()
