"""Our choices have the distributions of timm's and torchvision's: two-sample tests against their own code.

\b
    python -m bench.proofs.statistics                    50,000 draws, half a minute
    python -m bench.proofs.statistics --draws 5000       a small size

timm draws from ``random``, ``numpy.random`` and torch (seeded here), we from the keyed hash. Numbers are compared by Kolmogorov
and Smirnov's test, categories by chi-square; each p is multiplied by the number of tests (Bonferroni). Exits 1 if any is below
0.01.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click
import numpy as np
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment as timm_augment
from timm.data.mixup import Mixup, cutmix_bbox_and_lam
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from pipeline.views.choose import View, choose
from pipeline.views.pairs import pair
from pipeline.views.recipe import Erase, Mix, Recipe

HEIGHT, WIDTH = 375, 500
POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand-m7-n3-p0.7-mstd101-tweights",
    "rand-m15-mmax20-t3a",
    "v0",
    "original-mstd1",
    "3a",
)
MIXES = (
    Mix(mixup=0.8, cutmix=1.0),
    Mix(mixup=0.2, probability=0.7),
    Mix(cutmix=0.5),
    Mix(mixup=1.0, cutmix=1.0, switch=0.3, cutmix_minmax=(0.2, 0.8)),
)


@dataclass
class Tests:
    """Names and p-values so far."""

    found: list[tuple[str, float]] = field(default_factory=list)

    def numbers(self, name: str, ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> None:
        self.found.append((name, float(stats.ks_2samp(ours, theirs).pvalue)))

    def categories(self, name: str, ours: Iterable[object], theirs: Iterable[object]) -> None:
        """Categories seen fewer than 10 times in all are one, or none if that is seen fewer than 10 times."""
        counts = [Counter(map(str, ours)), Counter(map(str, theirs))]
        both = counts[0] + counts[1]
        common = [key for key in both if both[key] >= 10]
        table = [[count[key] for key in common] for count in counts]
        rest = [sum(count.values()) - sum(row) for count, row in zip(counts, table)]
        if sum(rest) >= 10:
            table = [[*row, other] for row, other in zip(table, rest)]
        p = float(stats.chi2_contingency(table).pvalue) if len(table[0]) > 1 else 1.0
        self.found.append((name, p))


def _views(recipe: Recipe, draws: int, height: int = HEIGHT, width: int = WIDTH) -> list[View]:
    return [choose(recipe, f"sample {i}", i % 7, height, width) for i in range(draws)]


def crops(tests: Tests, draws: int, recipe: Recipe) -> None:
    """timm's RandomResizedCropAndInterpolation, on a usual image and on one that often falls back to the
    middle.
    """
    for name, height, width in (("crop", HEIGHT, WIDTH), ("crop of a strip", 90, 480)):
        image = Image.new("L", (width, height))
        scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
        theirs = np.array([RandomResizedCropAndInterpolation.get_params(image, scale, ratio) for _ in range(draws)])
        ours = np.array([view.box for view in _views(recipe, draws, height, width)])
        tests.numbers(f"{name}: area", ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
        tests.numbers(f"{name}: aspect", ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2])
        tests.numbers(f"{name}: top", ours[:, 0], theirs[:, 0])
        tests.numbers(f"{name}: left", ours[:, 1], theirs[:, 1])


def padded(tests: Tests, draws: int, recipe: Recipe) -> None:
    """torchvision's RandomCrop(32, padding=4) and RandomHorizontalFlip."""
    small = recipe.model_copy(update={"size": 32, "crop": "random_padded"})
    views = _views(small, draws, 32, 32)
    image = Image.new("L", (40, 40))
    theirs = [transforms.RandomCrop.get_params(image, (32, 32))[:2] for _ in range(draws)]
    tests.categories("padded crop: place", [(v.window[0] + 4, v.window[1] + 4) for v in views], theirs)
    tests.categories("flip", [view.flip for view in views], (torch.rand(draws) < 0.5).tolist())


def policies(tests: Tests, draws: int, recipe: Recipe) -> None:
    """timm's policies with the op functions replaced by a notebook."""
    for policy in POLICIES:
        theirs = _their_ops(policy, draws)
        ours = [view.ops for view in _views(recipe.model_copy(update={"policy": policy}), draws)]
        tests.categories(f"{policy}: ops per view", map(len, ours), map(len, theirs))
        names = [[tuple(name for name, _ in ops) for ops in sample] for sample in (ours, theirs)]
        tests.categories(f"{policy}: ops in order", *names)
        arguments: list[dict[str, list[float]]] = [{}, {}]
        for sample, found in zip((ours, theirs), arguments):
            for name, given in (op for ops in sample for op in ops if op[1]):
                found.setdefault(name, []).append(given[0])
        for name in sorted(arguments[0] | arguments[1]):
            if all(len(found.get(name, [])) >= 20 for found in arguments):
                tests.numbers(f"{policy}: {name}", arguments[0][name], arguments[1][name])


def _their_ops(policy: str, draws: int) -> list[tuple[tuple[str, tuple[float, ...]], ...]]:
    noted: list[tuple[str, tuple[float, ...]]] = []
    hparams = {"img_mean": (124, 116, 104)}
    if policy.startswith("rand"):
        transform = timm_augment.rand_augment_transform(policy, hparams)
        ops = list(transform.ops)
    else:
        transform = timm_augment.auto_augment_transform(policy, hparams)
        ops = [op for group in transform.policy for op in group]
    for op in ops:

        def note(image: object, *given: float, name: str = op.name, **_: object) -> object:
            if name == "GaussianBlurRand":  # timm draws the radius inside the op (gaussian_blur_rand)
                name, given = "GaussianBlur", (random.uniform(0.1, 2.0 * given[0]),)
            noted.append((name, given))
            return image

        op.aug_fn = note
    found = []
    for _ in range(draws):
        noted.clear()
        transform(None)
        found.append(tuple(noted))
    return found


def jitter(tests: Tests, draws: int, recipe: Recipe) -> None:
    """torchvision's ColorJitter(0.4, 0.4, 0.4), without hue."""
    views = _views(recipe.model_copy(update={"policy": "", "color_jitter": 0.4}), draws)
    bounds = (0.6, 1.4)
    theirs = [transforms.ColorJitter.get_params(bounds, bounds, bounds, None) for _ in range(draws)]
    names = ("Brightness", "Contrast", "Color")
    for i, name in enumerate(names):
        tests.numbers(f"jitter: {name}", [dict(v.ops)[name][0] for v in views], [row[1 + i] for row in theirs])
    orders = [tuple(names[int(i)] for i in row[0] if i < 3) for row in theirs]
    tests.categories("jitter: order", [tuple(name for name, _ in view.ops) for view in views], orders)


class _Notebook:
    """Takes the place of an image and notes what timm's RandomErasing writes where."""

    def __init__(self) -> None:
        self.boxes: list[tuple[int, int, int, int]] = []

    def __setitem__(self, place: tuple[slice, slice, slice], value: object) -> None:
        _, y, x = place
        self.boxes.append((y.start, x.start, y.stop - y.start, x.stop - x.start))


def erasing(tests: Tests, draws: int, recipe: Recipe) -> None:
    """timm's RandomErasing at 224 px (one box) and 32 px (up to three)."""
    for size, count, probability in ((224, 1, 0.25), (32, 3, 0.9)):
        erase = Erase(probability=probability, count=count)
        views = _views(recipe.model_copy(update={"size": size, "erase": erase}), draws)
        eraser = RandomErasing(probability, mode="const", max_count=count, device="cpu")
        theirs = []
        for _ in range(draws):
            notebook = _Notebook()
            eraser._erase(notebook, 3, size, size, torch.float32)
            theirs.append(notebook.boxes)
        name = f"erasing at {size}"
        tests.categories(f"{name}: boxes", [len(view.erase) for view in views], map(len, theirs))
        mine = np.array([box for view in views for box in view.erase])
        other = np.array([box for boxes in theirs for box in boxes])
        tests.numbers(f"{name}: area", mine[:, 2] * mine[:, 3], other[:, 2] * other[:, 3])
        tests.numbers(f"{name}: aspect", mine[:, 2] / mine[:, 3], other[:, 2] / other[:, 3])
        tests.numbers(f"{name}: top", mine[:, 0], other[:, 0])
        tests.numbers(f"{name}: left", mine[:, 1], other[:, 1])


def mixing(tests: Tests, draws: int, recipe: Recipe) -> None:
    """timm's Mixup in mode ``pair``: lambda, which of the two, the box."""
    size, block = recipe.size, 256
    for i, mix in enumerate(MIXES):
        mixed = recipe.model_copy(update={"mix": mix})
        ours: list[tuple[float, int, int, int, int]] = []
        for view in range(-(-draws // (block // 2))):
            pairs = pair(mixed, f"block {view}", view, block)
            for a in pairs.pairs[:, 0]:
                y0, x0, y1, x1 = map(int, pairs.box[a])
                ours.append((float(pairs.lam[a]), y0, x0, y1, x1))
        del ours[draws:]
        theirs = _their_mixes(mix, draws, size)
        kinds = [
            ["cutmix" if row[3] > row[1] else "none" if row[0] == 1.0 else "mixup" for row in sample]
            for sample in (ours, theirs)
        ]
        tests.categories(f"mix {i}: kind", *kinds)
        for kind in ("mixup", "cutmix"):
            of = [
                np.array([row for row, k in zip(sample, ks) if k == kind]) for sample, ks in zip((ours, theirs), kinds)
            ]
            if len(of[0]) < 20:
                continue
            tests.numbers(f"mix {i}: {kind} lambda", of[0][:, 0], of[1][:, 0])
            if kind == "cutmix":
                areas = [(rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2]) for rows in of]
                tests.numbers(f"mix {i}: box area", *areas)
                tests.numbers(f"mix {i}: box height", *(rows[:, 3] - rows[:, 1] for rows in of))
                tests.numbers(f"mix {i}: box top", of[0][:, 1], of[1][:, 1])
                tests.numbers(f"mix {i}: box left", of[0][:, 2], of[1][:, 2])


def _their_mixes(mix: Mix, draws: int, size: int) -> list[tuple[float, int, int, int, int]]:
    """The decisions of timm's Mixup._mix_pair, by its own functions."""
    timm_mix = Mixup(mix.mixup, mix.cutmix, mix.cutmix_minmax, mix.probability, mix.switch, mode="pair")
    lams, use_cutmix = timm_mix._params_per_elem(draws)
    found = []
    for lam, cutmix in zip(lams, use_cutmix):
        box = (0, 0, 0, 0)
        if lam != 1.0 and cutmix:
            (yl, yh, xl, xh), lam = cutmix_bbox_and_lam((3, size, size), lam, mix.cutmix_minmax, correct_lam=True)
            box = (int(yl), int(xl), int(yh), int(xh)) if yh > yl and xh > xl else box
        found.append((float(lam), *box))
    return found


def run(draws: int, recipe: Recipe) -> list[tuple[str, float]]:
    """(name, p) of every test; ``recipe`` differs from timm's settings only in a test of these tests."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    tests = Tests()
    for part in (crops, padded, policies, jitter, erasing, mixing):
        part(tests, draws, recipe)
    return tests.found


@click.command(help=__doc__)
@click.option("--draws", default=50_000, show_default=True)
def main(draws: int) -> None:
    found = run(draws, Recipe(seed=3, size=224))
    for name, p in found:
        print(f"{name:60} p {p:.4f}")
    least = min(p for _, p in found) * len(found)
    print(
        f"{len(found)} tests of {draws} draws: smallest p times {len(found)} is {least:.3f}; a difference: {least < 0.01}"
    )
    sys.exit(least < 0.01)


if __name__ == "__main__":
    main()
