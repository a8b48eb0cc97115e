"""The kernels draw the very pixels of Pillow 13, on any CPU, in any order, under any Pillow.

\b
    python -m bench.proofs.engines                                   100,000 views at 224 px; 15 minutes of CPU
    python -m bench.proofs.engines --size 32                         100,000 at 32 px
    python -m bench.proofs.engines --views 2000 [--size 32]          CI
    python -m bench.proofs.engines --engine cuda-on-cpu --views 20000 --size 96      the GPU's kernels, built for a CPU
    python -m bench.proofs.engines --engine cuda                     the same on a GPU
    python -m bench.proofs.engines --other PYTHON --views 20000      another machine's Python: bench/aarch64.sh

Views of whole recipes, from encoded bytes to pixels: DeiT's for half of them, RandAugment with decreasing ops, AutoAugment,
3-Augment with jitter, bilinear, padded and evaluation crops for the rest, and every op by itself. Pictures: JPEGs of every
kind, portrait, panorama, tiny and large, PNG with alpha and palette, WebP. The reference is ``images.decode_image`` with Pillow's
own functions under Pillow 13; the variants are fresh processes with the kernels, the last one with Pillow 12, which
is installed into a folder of its own. Exits 1 on one difference, a crash, or an op drawn fewer than 20 times.
Behind these views come whole levels of every op on pictures of few values: results then lie on the edge between two values,
where one fused operation shows, which views of photographs with random magnitudes hardly ever do.

Without SIMD, libjpeg-turbo decodes a damaged scan otherwise, under Pillow, too, because its coefficients are beyond all range.
The variant without SIMD leaves its views out; that both engines decode every picture alike is shown in each process.

The GPU's kernels are compared with numba's in one process, in batches, on a CPU in natural and in shuffled order of the items
of each phase; the whole levels come first.
"""

import functools
import importlib.util
import itertools
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL
import torch
import xxhash

from pipeline.data.images import decode_image
from pipeline.runtime.machine import device as pick_device
from pipeline.views import device, draw
from pipeline.views.choose import View
from pipeline.views.packed import LARGEST, drawable, room
from pipeline.views.policies import EVERY_OP
from pipeline.views.recipe import Recipe
from tests.support.hard_views import differing, random_views, rounds, view_of, whole_levels
from tests.support.pictures import every_kind

NO_SIMD = {"JSIMD_FORCENONE": "1"}  # of libjpeg-turbo
BATCH = 128  # views that the GPU's kernels draw at once
OLD_PILLOW = "pillow==12.0.0"

# name, DISTIL_ENGINE, order, threads, other variables; Pillow 12 where the name says so
Variant = tuple[str, str, str, int, dict[str, str]]
VARIANTS: tuple[Variant, ...] = (
    ("Pillow 13, the reference", "pil", "forward", 1, {}),
    ("kernels", "kernels", "forward", 1, {}),
    ("kernels for a generic CPU, reversed", "kernels", "reversed", 1, {"NUMBA_CPU_NAME": "generic"}),
    (
        "kernels, no SIMD in libjpeg, torch's least capability, 2 threads, shuffled", "kernels", "shuffled", 2,
        {**NO_SIMD, "ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "generic"},
    ),
    ("kernels under Pillow 12", "kernels", "forward", 1, {}),
)  # fmt: skip
OTHERS: tuple[Variant, ...] = (
    VARIANTS[0],
    ("kernels by the other Python", "kernels", "forward", 1, {}),
    ("Pillow by the other Python", "pil", "forward", 1, {}),
)


def digests(size: int, views: int, engine: str, order: str = "forward", ops: Counter | None = None) -> np.ndarray:
    """uint64 (views, 2): of the decoded picture and of the view; behind them those of ``whole_levels``, not decoded."""
    os.environ["DISTIL_ENGINE"] = engine
    found = np.zeros((views, 2), np.uint64)
    turns = rounds(views)
    if order == "reversed":
        turns = turns[::-1]
    elif order == "shuffled":
        random.Random(5).shuffle(turns)
    for name, numbers in turns:
        pixels = draw.decode(every_kind()[name], name)
        height, width = pixels.shape[:2]
        decoded = xxhash.xxh3_64_intdigest(pixels.data)
        for turn, number in enumerate(numbers):
            view, recipe = view_of(number, turn, height, width, size)
            found[number] = decoded, xxhash.xxh3_64_intdigest(draw.draw(pixels, view, recipe).data)
            if ops is not None:
                ops.update(name for name, _ in view.ops)
    whole = [[0, xxhash.xxh3_64_intdigest(draw.draw(*case).data)] for case in whole_levels(64)]
    return np.concatenate([found, np.array(whole, np.uint64)])


def compare_device(engine: str, views: int, size: int) -> int:
    """Prints what the GPU's kernels draw otherwise, and returns how many views."""
    os.environ["DISTIL_ENGINE"] = "kernels"
    where, strides = (pick_device(), (1,)) if engine == "cuda" else (torch.device("cpu"), (1, 7919))
    total: Counter = Counter()
    waiting: dict[Recipe, list[tuple[np.ndarray, View]]] = defaultdict(list)

    def check(recipe: Recipe) -> None:
        some = waiting.pop(recipe)
        differ = differing(made_for(recipe, where), some, strides)
        total.update(
            views=len(some),
            differ=int(differ.sum()),
            packed=sum(drawable(view, recipe, room(recipe, LARGEST)) for _, view in some),
        )
        for i in differ.nonzero()[0][:3]:
            print(f"  {some[i][1]} of an image of {some[i][0].shape} under {recipe}", flush=True)
        if total["views"] % (50 * BATCH) == 0:
            print(f"so far {total['differ']} of {total['views']} views differ", flush=True)

    hard = list(whole_levels(64))
    hard = hard[:: -(-len(hard) // views)]  # of fewer views, some of every op
    for pixels, view, recipe in itertools.chain(hard, random_views(size, views - len(hard))):
        waiting[recipe].append((pixels, view))
        if len(waiting[recipe]) == BATCH:
            check(recipe)
    for recipe in list(waiting):
        check(recipe)
    print(
        f"{engine}: {total['differ']} of {total['views']} views differ, {len(hard)} of whole levels at 64 px, the others at "
        f"{size} px; {total['packed']} drawn by the GPU's kernels, in {len(strides)} order(s)",
        flush=True,
    )
    return total["differ"]


@functools.cache
def made_for(recipe: Recipe, where: torch.device) -> device.Drawer:
    return device.Drawer(recipe, where)


def run(out: Path, views: int, size: int, order: str, threads: int) -> None:
    """What one variant's process does."""
    torch.set_num_threads(threads)
    ops: Counter = Counter()
    start = time.process_time()
    found = digests(size, views, os.environ["DISTIL_ENGINE"], order, ops)
    seconds = time.process_time() - start
    alike = [
        np.array_equal(np.asarray(decode_image(data, name)), draw.decode(data, name))
        for name, data in every_kind().items()
    ]
    np.savez(
        out, found=found, alike=alike, ops=[ops[name] for name in EVERY_OP], pillow=PIL.__version__, seconds=seconds
    )


def old_pillow(folder: Path) -> None:
    """Installs Pillow 12 into ``folder``."""
    if importlib.util.find_spec("pip"):
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    else:
        uv = shutil.which("uv") or str(Path(".tools/bin/uv").absolute())
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    subprocess.run([*install, "--target", str(folder), OLD_PILLOW], check=True)


def launch(out: Path, views: int, size: int, variant: Variant, old: Path, other: str) -> bool:
    """Runs one variant in a process of its own; False if it crashed. ``other``: the command of another machine's Python."""
    name, engine, order, threads, more = variant
    environment = {**os.environ, "DISTIL_ENGINE": engine, **more}
    if "Pillow 12" in name:
        environment["PYTHONPATH"] = os.pathsep.join([str(old), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment["BENCH_PICTURES"] = str(out.parent / "pictures.npz")  # Pillow 12 would encode them otherwise
    flags = ["--views", views, "--size", size, "--order", order, "--threads", threads, "--out", out]
    python = shlex.split(other) if variant in OTHERS[1:] else [sys.executable]
    command = [*python, "-m", "bench.proofs.engines", *map(str, flags)]
    return subprocess.run(command, env=environment, check=False).returncode == 0


def compare(views: int, size: int, other: str) -> int:
    """Prints one line per variant and returns the number of views that differ anywhere or were not made."""
    bad = 0
    first = np.zeros((views + len(list(whole_levels(64))), 2), np.uint64)
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "pillow-12")
        if not other:
            old_pillow(old)
        kept: dict[str, Any] = {name: np.frombuffer(data, np.uint8) for name, data in every_kind().items()}
        np.savez(Path(folder, "pictures.npz"), **kept)
        for i, variant in enumerate(OTHERS if other else VARIANTS):
            out = Path(folder, f"{i}.npz")
            if not launch(out, views, size, variant, old, other):
                print(f"{variant[0]}: CRASHED", flush=True)
                bad += views
                continue
            made = np.load(out)
            first = made["found"] if i == 0 else first
            differ = first != made["found"]
            if variant[4].items() >= NO_SIMD.items():
                differ[[number for name, numbers in rounds(views) for number in numbers if name == "damaged"]] = False
            if variant != OTHERS[2]:  # Pillow's wheel for another CPU may fuse operations, and decides no pixel: shown
                bad += int(differ.any(1).sum()) + int((~made["alike"]).sum())
            pillow, seconds = str(made["pillow"]), float(made["seconds"])
            told = f"decoded differ {differ[:, 0].sum()}, views differ {differ[:, 1].sum()} of {len(first)}"
            told += f", {(~made['alike']).sum()} pictures decoded otherwise than by Pillow here"
            print(f"{variant[0]} (Pillow {pillow}, {seconds:.0f} s): {told}", flush=True)
            explain(np.flatnonzero(differ.any(1))[:5], views, size)
            bad += _wrong_pillow(variant[0], pillow)
        least = dict(zip(EVERY_OP, made["ops"].tolist(), strict=True))
        seldom = min(least, key=lambda name: least[name])
        print(
            f"distinct views: {len(np.unique(first[:, 1]))}; op drawn least: {seldom}, {least[seldom]} times",
            flush=True,
        )
        bad += max(0, 20 - least[seldom])
    print(f"{size} px: {bad} differ, crashed or missing", flush=True)
    return bad


def _wrong_pillow(variant: str, found: str) -> int:
    """1, with a line, if a variant did not run under the Pillow that it is to run under."""
    expected = "12" if "Pillow 12" in variant else "13"
    if found.split(".")[0] == expected:
        return 0
    print(f"{variant}: expected Pillow {expected}, found {found}; install it", flush=True)
    return 1


def explain(numbers: np.ndarray, views: int, size: int) -> None:
    """What was drawn in views that differ."""
    for name, turns in rounds(views) if len(numbers) else []:
        for turn, number in enumerate(turns):
            if number in numbers:
                image = decode_image(every_kind()[name], name)
                print(
                    f"  view {number} of {name!r}: {view_of(number, turn, image.height, image.width, size)}", flush=True
                )
    for number, (_, view, _) in enumerate(whole_levels(64), views):
        if number in numbers:
            print(f"  whole level {number - views}: {view}", flush=True)


@click.command(help=__doc__)
@click.option("--views", default=100_000, show_default=True)
@click.option("--size", default=224, show_default=True, help="Pixels.")
@click.option("--engine", type=click.Choice(["cuda", "cuda-on-cpu"]), help="Compare the GPU's kernels with numba's.")
@click.option(
    "--other", default="", help="The command of another machine's Python, whose views are compared with these."
)
@click.option("--out", type=click.Path(path_type=Path), hidden=True)  # this and the following: of a variant's process
@click.option("--order", default="forward", hidden=True)
@click.option("--threads", default=1, hidden=True)
def main(views: int, size: int, engine: str | None, other: str, out: Path | None, order: str, threads: int) -> None:
    if engine is not None:
        sys.exit(compare_device(engine, views, size) > 0)
    elif out is not None:
        run(out, views, size, order, threads)
    else:
        sys.exit(compare(views, size, other) > 0)


if __name__ == "__main__":
    main()
