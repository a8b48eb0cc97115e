"""The GPU's kernels, built for a CPU, give the bits of numba's, in any order of the items of a phase, and write nowhere else."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from pipeline.views import cuda, device
from pipeline.views.choose import View
from pipeline.views.recipe import Recipe
from tests.support.hard_views import differing, random_views, whole_levels

CPU = torch.device("cpu")


def by_recipe(size: int, views: int) -> dict[Recipe, list[tuple[np.ndarray, View]]]:
    found: dict[Recipe, list[tuple[np.ndarray, View]]] = {}
    for pixels, view, recipe in random_views(size, views):
        found.setdefault(recipe, []).append((pixels, view))
    return found


def hard(size: int, step: int) -> dict[Recipe, list[tuple[np.ndarray, View]]]:
    found: dict[Recipe, list[tuple[np.ndarray, View]]] = {}
    for pixels, view, recipe in list(whole_levels(size))[::step]:
        found.setdefault(recipe, []).append((pixels, view))
    return found


def test_whole_views_of_every_kind_of_picture_and_recipe_are_equal() -> None:
    """Small size of ``python -m bench.proofs.engines --engine cuda-on-cpu``."""
    for size in (24, 65):
        for recipe, some in by_recipe(size, 160).items():
            assert not differing(device.Drawer(recipe, CPU), some, (1, 7919)).any(), recipe


def test_every_op_at_whole_levels_on_pictures_of_few_values() -> None:
    for recipe, some in hard(64, 1).items():
        assert not differing(device.Drawer(recipe, CPU), some, (1, 7919)).any(), recipe


@pytest.mark.skipif(platform.machine() != "x86_64", reason="-mfma is of x86-64")
def test_whole_levels_notice_a_fused_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "COMPILER_FLAGS", (*cuda.COMPILER_FLAGS, "-mfma", "-ffp-contract=fast"))
    cuda.open_kernels.cache_clear()
    found = [differing(device.Drawer(recipe, CPU), some, (1,)).sum() for recipe, some in hard(64, 1).items()]
    cuda.open_kernels.cache_clear()
    assert sum(found) > 0


def test_digests_are_xxh3() -> None:
    made, generator = device.Drawer(Recipe(seed=0, size=8), CPU), np.random.default_rng(0)
    for size in (192, 240, 241, 1024, 1025, 2047, 2048, 2049, 40_000, 150_528):
        pixels = generator.integers(0, 256, (3, size), np.uint8)
        found = made.digests(torch.from_numpy(pixels)).numpy().view(np.uint64).tolist()
        assert found == [xxhash.xxh3_64_intdigest(of) for of in pixels], size


RAGGED = """
import sys, numpy as np, torch
from pipeline.views import cuda, packed
from pipeline.views.choose import choose
from pipeline.views.recipe import Recipe
made = cuda._OnCpu.__new__(cuda._OnCpu)
made.library = cuda._loaded(sys.argv[1])
generator, drawn = np.random.default_rng(1), 0
for size, crop, policy in ((33, "random_resized", "rand-m9-n4-mstd101"), (40, "random_padded", "v0"), (24, "center", "original")):
    recipe = Recipe(seed=size, size=size, crop=crop, policy=policy)
    for i in range(60):
        shape = generator.integers(1, 60, 2).tolist() if i % 3 else ((1, 300), (300, 1), (1, 1), (7, 200))[i // 3 % 4]
        image = generator.integers(0, 256, (*shape, 3)).astype(np.uint8)
        view = choose(recipe, str(i), 0, *shape)
        memory = np.empty(image.size + 3 * size**2 + packed.table_bytes(recipe, 1), np.uint8)
        packer = packed.Packer(recipe, memory, 1)
        packer.add(image, [view])
        what = packer.finish([0])
        sent = torch.from_numpy(memory[: what.bytes].copy())
        rooms, out = torch.empty(what.room, dtype=torch.uint8), torch.empty(3 * size**2, dtype=torch.uint8)
        constants = torch.from_numpy(packed.constants(recipe).view(np.uint8))
        made("draw_views", 1, 1, sent, what.views_at, what.ops_at, constants, rooms, what.room, what.taps, out, 1)
        sums, found = torch.empty(8 * ((len(out) - 1) // 1024), dtype=torch.int64), torch.empty(1, dtype=torch.int64)
        made("sum_blocks", 1, 1, out, len(out), 1, sums)
        made("chain", 1, 1, out, len(out), 1, sums, found)
        drawn += 1
print(drawn)
"""


def test_ragged_images_are_read_and_written_inside_their_memory(tmp_path: Path) -> None:
    """Under AddressSanitizer, each piece of memory exactly as large as it must be."""
    (tmp_path / "checked.so").write_bytes(cuda.built((*cuda.COMPILER_FLAGS, "-g", "-fsanitize=address")))
    asan = subprocess.run(
        [cuda.compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    environment = os.environ | {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "DISTIL_ENGINE": "kernels"}
    run = [sys.executable, "-c", RAGGED, tmp_path / "checked.so"]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.stdout == "180\n", done.stderr[-3000:]
