"""What a view costs, from encoded bytes to pixels, beside a straightforward pipeline and beside decoding alone.

\b
    python -m bench.measure.views                     the ratios with their goals, and what each step costs
    python -m bench.measure.views --rounds 15         less noise

CPU time of one thread over the same JPEGs of 500 x 375 px and about 100 kB, DeiT's whole recipe at 224 px.

straightforward: what one writes without this project: webdataset, PIL, timm's transforms to floats, three random
generators saved, seeded and restored for every view so that it can be replayed, one row of a Zarr array read per view
(Zarr's own settings, chunks of 1,000 rows). Its cost without that read stands in the table, too.
kernels, pil: ``draw_visit`` with r views of every image, digests and plans included. packed: ``pack_visit``, what a worker does
where the GPU draws. decode: one whole decode.
"""

import os
import random
import tempfile
import warnings
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
import webdataset
import xxhash
import zarr
from timm.data import create_transform

from bench.photo_shards import jpegs, photo_shards
from bench.timing import Step, head, interleaved, machine, medians, microseconds, row
from pipeline.data.shards import Shards
from pipeline.views.choose import choose
from pipeline.views.draw import compile_kernels, decode, draw
from pipeline.views.drawn import draw_visit, pack_visit
from pipeline.views.finish import finish, finish_plan
from pipeline.views.packed import block_room
from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe

CLASSES = 1000
RECIPE = Recipe(seed=0, size=224, mix=Mix(mixup=0.8, cutmix=1.0))
GOALS = {"kernels, r = 1": "0.23 of straightforward", "kernels, r = 3": "0.14 of straightforward, 1.15 of a decode"}


def straightforward(shards: Shards, root: Path | None) -> Step:
    """One view of every sample, as floats, with the teacher's row where ``root`` is a folder for its array."""
    logits = None if root is None else teachers_rows(root)
    policy = "rand-m9-mstd0.5-inc1"
    transform = create_transform(
        RECIPE.size, is_training=True, auto_augment=policy, re_prob=0.25, interpolation="bicubic"
    )
    tar = str(shards.root / shards.names[0])

    def run() -> None:
        samples = webdataset.WebDataset(tar, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
        for number, (image, _) in enumerate(samples):
            states = random.getstate(), np.random.get_state(), torch.get_rng_state()
            random.seed(number), np.random.seed(number), torch.manual_seed(number)
            view = transform(image)
            random.setstate(states[0]), np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            assert view.shape == (3, RECIPE.size, RECIPE.size)
            if logits is not None:
                assert len(torch.from_numpy(np.asarray(logits[0, number]))) == CLASSES

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


def packing(shards: Shards, r: int) -> Step:
    """The same views, packed for a GPU."""
    memory = np.zeros(block_room(shards, RECIPE, r), np.uint8)

    def run() -> None:
        os.environ["DISTIL_ENGINE"] = "kernels"
        pack_visit(shards, RECIPE, shards.blocks[0], 0, r, memory)

    return run


def decoding(files: list[bytes], engine: str) -> Step:
    def run() -> None:
        os.environ["DISTIL_ENGINE"] = engine
        for data in files:
            decode(data, "picture")

    return run


def costs(steps: dict[str, tuple[Step, int]], rounds: int) -> dict[str, float]:
    """Microseconds of CPU per view for each step, which makes so many views."""
    return medians(interleaved({name: partial(microseconds, *step) for name, step in steps.items()}, rounds, warm=1))


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
    return costs({name: (step, n) for name, step in steps.items()}, rounds)


@click.command(help=__doc__)
@click.option("--samples", default=64, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(samples: int, rounds: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of webdataset and timm
    files = jpegs(samples)
    with tempfile.TemporaryDirectory() as folder:
        shards = photo_shards(Path(folder) / "shards", files, samples, samples)
        n = shards.samples
        compile_kernels()
        steps = {
            "straightforward": (straightforward(shards, Path(folder)), n),
            "without the row": (straightforward(shards, None), n),
            "decode": (decoding(files, "kernels"), n),
            "decode by PIL": (decoding(files, "pil"), n),
        }
        steps |= {
            f"{engine}, r = {r}": (visit(shards, engine, r), r * n) for engine in ("kernels", "pil") for r in (1, 3)
        }
        steps |= {f"packed, r = {r}": (packing(shards, r), r * n) for r in (1, 3)}
        cost = costs(steps, rounds)
    print(f"{machine()}\n\n{head('', 'us/view', 'of straightforward', 'of a decode', 'goals')}")
    for name, value in cost.items():
        ratios = (f"{value / cost[base]:.3f}" for base in ("straightforward", "decode"))
        print(row(name, f"{value:.0f}", *ratios, GOALS.get(name, "")))
    beyond = ", ".join(f"{cost[f'packed, r = {r}'] - cost['decode'] / r:.0f} with r = {r}" for r in (1, 3))
    print(f"\npacking beyond decoding, us/view: {beyond}; goal: at most 60")
    around = parts(files, rounds)
    print("\nwith the kernels, us/view: " + ", ".join(f"{name} {value:.0f}" for name, value in around.items()))


if __name__ == "__main__":
    main()
