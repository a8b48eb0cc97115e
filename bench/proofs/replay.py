"""Views replay exactly: the same bits in another process, order, batch, number of workers or threads, hash seed, CPU capability.

\b
    python -m bench.proofs.replay                             100,000 views at 224 px; 25 minutes on two cores
    python -m bench.proofs.replay --views 2000                CI
    python -m bench.proofs.replay --views 20000 --size 32     CI
    python -m bench.proofs.replay --other PYTHON              another machine's Python: bench/aarch64.sh

Each variant is a fresh process over the same keys: it chooses, draws and finishes every view under DeiT's whole recipe and
writes one digest of the uint8 pixels and one of the finished, mixed floats. Exits 1 if any differs.
"""

import multiprocessing
import os
import random
import shlex
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
import xxhash

from pipeline.views.canary import pictures
from pipeline.views.choose import choose
from pipeline.views.draw import draw
from pipeline.views.finish import FinishPlan, finish, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe

BLOCK = 16  # samples that are paired; a variant finishes one or several blocks at once

# name, order, workers, threads, blocks finished at once, PYTHONHASHSEED, ATEN_CPU_CAPABILITY ("" = the machine's best)
Variant = tuple[str, str, int, int, int, str, str]
VARIANTS: tuple[Variant, ...] = (
    ("first process", "forward", 1, 1, 4, "0", ""),
    ("second process, reversed, hash seed 1", "reversed", 1, 1, 4, "1", ""),
    ("2 workers, 2 threads, batches of 16", "forward", 2, 2, 1, "random", ""),
    ("4 workers, shuffled, capability default", "shuffled", 4, 1, 8, "2", "default"),
    ("1 worker, shuffled, capability avx2", "shuffled", 1, 1, 2, "3", "avx2"),
)
OTHERS: tuple[Variant, ...] = (
    VARIANTS[0],
    ("the other Python", "forward", 1, 1, 4, "0", ""),
    ("the other Python, reversed, 2 threads, batches of 16, capability default", "reversed", 1, 2, 1, "1", "default"),
)


def deit(size: int) -> Recipe:
    """DeiT's recipe; at 32 px with its padded crop and mixing within (0.2, 0.8)."""
    if size <= 32:
        return Recipe(seed=11, size=size, crop="random_padded", mix=Mix(mixup=0.8, cutmix_minmax=(0.2, 0.8)))
    return Recipe(seed=11, size=size, mix=Mix(mixup=0.8, cutmix=1.0))


def digests(recipe: Recipe, blocks: list[int]) -> np.ndarray:
    """uint64 (len(blocks) * BLOCK, 2): pixels, finished floats. The blocks are finished as one batch."""
    images = pictures()
    pixels, plans = [], []
    for block in blocks:
        views = []
        for i in range(block * BLOCK, (block + 1) * BLOCK):
            image = images[i % len(images)]
            views.append(choose(recipe, f"sample {i // 3}", i % 3, *image.shape[:2]))
            pixels.append(draw(image, views[-1], recipe))
        plans.append(finish_plan(views, pair(recipe, f"block {block}", 0, BLOCK), recipe.erase.count))
    plan = FinishPlan(
        erase=torch.cat([plan.erase for plan in plans]),
        noise=torch.cat([plan.noise for plan in plans]),
        partner=torch.cat([plan.partner + BLOCK * i for i, plan in enumerate(plans)]),
        lam=torch.cat([plan.lam for plan in plans]),
        box=torch.cat([plan.box for plan in plans]),
    )
    finished = finish(torch.from_numpy(np.stack(pixels)), plan, recipe).numpy()
    rows = [[xxhash.xxh3_64_intdigest(a.data), xxhash.xxh3_64_intdigest(b.data)] for a, b in zip(pixels, finished)]
    return np.array(rows, np.uint64)


def run(out: Path, views: int, size: int, order: str, workers: int, threads: int, at_once: int) -> None:
    """What one variant's process does."""
    torch.set_num_threads(threads)
    blocks = list(range(-(-views // BLOCK)))
    if order == "shuffled":
        random.Random(5).shuffle(blocks)
    batches = [blocks[i : i + at_once] for i in range(0, len(blocks), at_once)]
    if order == "reversed":
        batches = [batch[::-1] for batch in batches[::-1]]
    work = partial(digests, deit(size))
    if workers == 1:
        results = [work(batch) for batch in batches]
    else:
        with multiprocessing.get_context("fork").Pool(workers, torch.set_num_threads, (threads,)) as pool:
            results = pool.map(work, batches, chunksize=1)
    found = np.zeros((len(blocks), BLOCK, 2), np.uint64)
    for batch, result in zip(batches, results, strict=True):
        found[batch] = result.reshape(-1, BLOCK, 2)
    np.save(out, found.reshape(-1, 2)[:views])


def launch(out: Path, views: int, size: int, variant: Variant, other: str = "") -> bool:
    """Runs one variant in a process of its own; False if it crashed. ``other``: the command of another machine's Python."""
    _, order, workers, threads, at_once, seed, capability = variant
    flags = ["--views", views, "--size", size, "--order", order, "--workers", workers]
    flags += ["--threads", threads, "--at-once", at_once, "--out", out]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    python = shlex.split(other) if variant in OTHERS[1:] else [sys.executable]
    command = [*python, "-m", "bench.proofs.replay", *map(str, flags)]
    return subprocess.run(command, env=environment, check=False).returncode == 0


def compare(views: int, size: int, other: str) -> int:
    """Prints one line per variant and returns the number of views that differ anywhere or were not made."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        first = np.zeros((views, 2), np.uint64)
        for i, variant in enumerate(OTHERS if other else VARIANTS):
            out = Path(folder, f"{i}.npy")
            if not launch(out, views, size, variant, other):
                print(f"{variant[0]}: CRASHED", flush=True)
                bad += views
                continue
            found = np.load(out)
            first = found if i == 0 else first
            pixels, floats = (first != found).sum(0)
            bad += int((first != found).any(1).sum())
            print(f"{variant[0]}: pixels differ {pixels}, finished differ {floats} of {views}", flush=True)
        print(f"distinct views: {len(np.unique(first[:, 0]))} of {views}; differ or crashed: {bad}", flush=True)
    return bad


@click.command(help=__doc__)
@click.option("--views", default=100_000, show_default=True)
@click.option("--size", default=224, show_default=True, help="Pixels.")
@click.option(
    "--other", default="", help="The command of another machine's Python, whose views are compared with these."
)
@click.option("--out", type=click.Path(path_type=Path), hidden=True)  # this and the following: of a variant's process
@click.option("--order", default="forward", hidden=True)
@click.option("--workers", default=1, hidden=True)
@click.option("--threads", default=1, hidden=True)
@click.option("--at-once", default=1, hidden=True)
def main(
    views: int, size: int, other: str, out: Path | None, order: str, workers: int, threads: int, at_once: int
) -> None:
    if out is not None:
        run(out, views, size, order, workers, threads, at_once)
    else:
        sys.exit(compare(views, size, other) > 0)


if __name__ == "__main__":
    main()
