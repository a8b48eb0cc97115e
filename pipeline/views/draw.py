"""The door to drawing: step 2 of choose, draw, finish. Encoded images of a block in, pixels of its views out.

One definition of a view's pixels, the arithmetic of Pillow 13 on x86-64 under timm's ops, and two implementations with
the same bits: ``pillow`` calls them, ``kernels`` computes them three times as fast. ``pipeline.base.engine`` says which.

Where a GPU draws, ``packed`` takes the place of ``draw_block``. An implementation that decodes only a region would have its
place in ``decoded``: the views, and so the rectangle around their boxes, are known before an image is decoded.
``bench/proofs/engines.py`` is there to show that bits are the same.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol

import numpy as np

from pipeline.base import engine
from pipeline.data.images import STORED, Rule
from pipeline.data.shards import Sample
from pipeline.views import pillow
from pipeline.views.choose import View, choose
from pipeline.views.decode import plain_size
from pipeline.views.recipe import Recipe


class _Implementation(Protocol):
    """A module that draws."""

    def decode(self, data: bytes, name: str, rule: Rule) -> np.ndarray: ...

    def draw(self, pixels: np.ndarray, view: View, recipe: Recipe, out: np.ndarray) -> None: ...


def draw_block(
    samples: Sequence[Sample], recipe: Recipe, first_view: int, out: np.ndarray, rule: Rule = STORED
) -> list[list[View]]:
    """Draws r views of n samples, from ``first_view`` on, and returns their decisions, r lists of n.

    ``out``: uint8 (r, n, 3, R, R), contiguous; shared memory will do. Each image is decoded once. Raises Undecodable.
    """
    if out.dtype != np.uint8 or out.shape[1:] != (len(samples), 3, recipe.size, recipe.size):
        raise ValueError(f"expected uint8 (r, {len(samples)}, 3, {recipe.size}, {recipe.size}), found {out.shape}")
    if not out.flags.c_contiguous:
        raise ValueError("expected contiguous memory to draw to")
    chosen = []
    for row, (pixels, views) in enumerate(decoded(samples, recipe, first_view, len(out), rule)):
        for i, view in enumerate(views):
            draw_into(pixels, view, recipe, out[i, row])
        chosen.append(views)
    return [list(of) for of in zip(*chosen)]


def decoded(
    samples: Sequence[Sample], recipe: Recipe, first_view: int, repeats: int, rule: Rule = STORED
) -> Iterator[tuple[np.ndarray, list[View]]]:
    """Each image, uint8 (H, W, 3), with its r = ``repeats`` views. Raises Undecodable.

    Views are chosen before the first image is decoded where a header says the size: decoding fills the CPU's caches, and
    choosing takes twice as long right after it.
    """
    made = _implementation()

    def views(sample: Sample, size: tuple[int, ...]) -> list[View]:
        return [choose(recipe, sample.key, first_view + i, size[0], size[1]) for i in range(repeats)]

    sizes = [plain_size(sample.data) for sample in samples]
    early = [views(sample, size) if size else [] for sample, size in zip(samples, sizes)]
    for sample, size, of in zip(samples, sizes, early):
        pixels = made.decode(sample.data, sample.key, rule)
        yield pixels, of if size == pixels.shape[:2] else views(sample, pixels.shape[:2])


def decode(data: bytes, name: str, rule: Rule = STORED) -> np.ndarray:
    """One image as RGB, uint8 (H, W, 3). Raises Undecodable."""
    return _implementation().decode(data, name, rule)


def draw(pixels: np.ndarray, view: View, recipe: Recipe) -> np.ndarray:
    """One view, uint8 (3, R, R), of an image uint8 (H, W, 3) of the size that the view was chosen for."""
    top, left, height, width = view.box
    if not (top >= 0 and left >= 0 and top + height <= pixels.shape[0] and left + width <= pixels.shape[1]):
        raise ValueError(f"view chosen for another image: box {view.box}, image {pixels.shape[0]} x {pixels.shape[1]}")
    out = np.empty((3, recipe.size, recipe.size), np.uint8)
    draw_into(np.require(pixels, np.uint8, ("C", "W")), view, recipe, out)
    return out


def draw_into(pixels: np.ndarray, view: View, recipe: Recipe, out: np.ndarray) -> None:
    """The same into ``out``; both arrays contiguous."""
    _implementation().draw(pixels, view, recipe, out)


def compile_kernels() -> None:
    """Compiles the kernels, or loads them from the disk, before workers start: forked workers inherit the compiled code,
    others load it. Says so where it compiles, which takes seconds."""
    if engine.kernels():
        _load_kernels()


@cache
def _load_kernels() -> _Implementation:
    from pipeline.base import compiled
    from pipeline.views import kernels

    compiled.compile_ahead(kernels.known_view, kernels.KNOWN_VIEW)
    return kernels


def _implementation() -> _Implementation:
    return _load_kernels() if engine.kernels() else pillow
