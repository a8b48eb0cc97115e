"""What a view costs, from encoded bytes to pixels, beside a straightforward pipeline and beside decoding alone.

    python -m bench.measure.views                     # the ratios that the kernels must reach, and each step's share
    python -m bench.measure.views --rounds 15         # quieter

CPU time of one thread, medians of interleaved rounds over the same JPEGs of 500 x 375 px and about 100 kB, DeiT's whole
recipe at 224 px. Machine time is shared, so the figures to compare are the ratios. Exits 1 if a bound is missed.

straightforward: what one writes without this project: webdataset, PIL, timm's transforms to floats, three random
generators saved, seeded and restored for every view so that it can be replayed, one row of a Zarr array read per view
(Zarr's own settings, chunks of 1,000 rows). Its cost without that read stands in the table, too.
kernels, pil: ``draw_visit`` with r views of every image, digests and plans included. decode: one whole decode.
"""

import argparse
import io
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
import webdataset
import xxhash
import zarr
from PIL import Image
from timm.data import create_transform

from bench.canary_images import picture
from pipeline.data.listing import Entry, Split
from pipeline.data.pack import pack
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.config import validate
from pipeline.views.choose import choose
from pipeline.views.draw import compile_kernels, decode, draw
from pipeline.views.drawn import draw_visit
from pipeline.views.finish import finish, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe

CLASSES = 1000
RECIPE = Recipe(seed=0, size=224, mix=Mix(mixup=0.8, cutmix=1.0))
Step = Callable[[], object]


def jpegs(count: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(picture(generator, 500, 375)).save(buffer, "JPEG", quality=94)
        files.append(buffer.getvalue())
    return files


def shards_of(files: list[bytes], root: Path) -> Shards:
    """One shard of one block."""
    entries = [Entry(f"{i}.jpg", f"k/{i}", i % 2, "jpg", len(data), data=data) for i, data in enumerate(files)]
    config = validate(DataConfig, {"source": "folder", "shard_size": len(files), "block": len(files)}, "data")
    pack(config, ("a", "b"), {"train": Split(entries), "val": Split(entries)}, root / "shards", 1)
    return Shards.open(root / "shards" / "train")


def straightforward(shards: Shards, root: Path | None) -> Step:
    """One view of every sample, as floats, with the teacher's row where ``root`` is a folder for its array."""
    logits = None if root is None else teachers_rows(root)
    policy = "rand-m9-mstd0.5-inc1"
    transform = create_transform(
        RECIPE.size, is_training=True, auto_augment=policy, re_prob=0.25, interpolation="bicubic"
    )
    tar = str(shards.root / shards.names[0])

    def run() -> None:
        for row, (image, _) in enumerate(
            webdataset.WebDataset(tar, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
        ):
            states = random.getstate(), np.random.get_state(), torch.get_rng_state()
            random.seed(row), np.random.seed(row), torch.manual_seed(row)
            view = transform(image)
            random.setstate(states[0]), np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            assert view.shape == (3, RECIPE.size, RECIPE.size)
            if logits is not None:
                assert len(torch.from_numpy(np.asarray(logits[0, row]))) == CLASSES

    return run


def teachers_rows(root: Path) -> zarr.Array:
    """Logits (views, samples, classes) of one chunk per view."""
    shape = (2, 1000, CLASSES)
    logits = zarr.create_array(root / "rows.zarr", shape=shape, chunks=(1, *shape[1:]), dtype="float16")
    logits[:] = np.random.default_rng(1).normal(size=shape).astype(np.float16)
    return logits


def visit(shards: Shards, engine: str, r: int) -> Step:
    """r views of every sample, into memory that stands as a ring of visits does."""
    out = np.zeros((r, shards.samples, 3, RECIPE.size, RECIPE.size), np.uint8)

    def run() -> None:
        os.environ["DISTIL_ENGINE"] = engine
        draw_visit(shards, RECIPE, shards.blocks[0], 0, r, out)

    return run


def decoding(files: list[bytes], engine: str) -> Step:
    def run() -> None:
        os.environ["DISTIL_ENGINE"] = engine
        for data in files:
            decode(data, "picture")

    return run


def rates(steps: dict[str, tuple[Step, int]], rounds: int) -> dict[str, float]:
    """Microseconds of CPU per view for each step, which makes so many views: medians of interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, (step, views) in steps.items():
            start = process_time()
            step()
            if number:  # the first round warms up
                times[name].append((process_time() - start) / views * 1e6)
    return {name: median(values) for name, values in times.items()}


def parts(files: list[bytes], rounds: int) -> dict[str, float]:
    """Microseconds per view of the steps around ``draw``, with the kernels."""
    os.environ["DISTIL_ENGINE"] = "kernels"
    images = [decode(data, "picture") for data in files]
    n = len(images)
    chosen = [choose(RECIPE, f"sample {i}", 0, 375, 500) for i in range(n)]
    plain = [view._replace(ops=()) for view in chosen]
    pixels = np.stack([draw(image, view, RECIPE) for image, view in zip(images, chosen, strict=True)])
    pairs = pair(RECIPE, "block", 0, n)
    plan, batch = finish_plan(chosen, pairs, RECIPE.erase.count), torch.from_numpy(pixels)
    steps: dict[str, Step] = {
        "decode": lambda: [decode(data, "picture") for data in files],
        "choose": lambda: [choose(RECIPE, f"sample {i}", 0, 375, 500) for i in range(n)],
        "draw": lambda: [draw(image, view, RECIPE) for image, view in zip(images, chosen, strict=True)],
        "crop": lambda: [draw(image, view, RECIPE) for image, view in zip(images, plain, strict=True)],
        "digest": lambda: xxhash.xxh3_64_hexdigest(pixels.data),
        "pair": lambda: pair(RECIPE, "block", 0, n),
        "plan": lambda: finish_plan(chosen, pairs, RECIPE.erase.count),
        "finish": lambda: finish(batch, plan, RECIPE),
    }
    return rates({name: (step, n) for name, step in steps.items()}, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of webdataset and timm
    files = jpegs(given.samples)
    with tempfile.TemporaryDirectory() as folder:
        shards = shards_of(files, Path(folder))
        n = shards.samples
        compile_kernels()
        cost = rates(
            {
                "straightforward": (straightforward(shards, Path(folder)), n),
                "without the row": (straightforward(shards, None), n),
                "kernels, r = 1": (visit(shards, "kernels", 1), n),
                "kernels, r = 3": (visit(shards, "kernels", 3), 3 * n),
                "pil, r = 1": (visit(shards, "pil", 1), n),
                "pil, r = 3": (visit(shards, "pil", 3), 3 * n),
                "decode": (decoding(files, "kernels"), n),
                "decode by PIL": (decoding(files, "pil"), n),
            },
            given.rounds,
        )
    whole, one = cost["straightforward"], cost["decode"]
    print(f"{'':16} {'us/view':>9} {'of straightforward':>19} {'of a decode':>12}")
    for name, value in cost.items():
        print(f"{name:16} {value:9.0f} {value / whole:19.3f} {value / one:12.2f}")
    steps = parts(files, given.rounds)
    print("with the kernels, us/view: " + ", ".join(f"{name} {value:.0f}" for name, value in steps.items()))
    bounds = (
        ("r = 3 of straightforward", cost["kernels, r = 3"] / whole, 0.14),
        ("r = 3 of a decode", cost["kernels, r = 3"] / one, 1.15),
        ("r = 1 of straightforward", cost["kernels, r = 1"] / whole, 0.23),
    )
    for name, found, most in bounds:
        print(f"{name}: {found:.3f}, at most {most}: {'yes' if found <= most else 'NO'}")
    return int(any(found > most for _, found, most in bounds))


if __name__ == "__main__":
    sys.exit(main())
