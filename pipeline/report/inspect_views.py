"""Looking at views: a grid of samples x views as the teacher saw them, mixed, erased and labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from pipeline.cache.identity import require_views
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.report.lettering import names_of, write
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.views.drawn import DrawnVisit, draw_visit
from pipeline.views.finish import finish
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class Cell:
    """One finished view: ``image`` float (R, R, 3) in [0, 1], ``title`` label, partner and lambda, ``answer`` of the
    teacher (its top three where the cache has logits, else its hard label)."""

    image: np.ndarray
    title: str
    answer: str


def cells(
    shards: Shards, recipe: Recipe, path: Path | None, block: int, samples: int, first_view: int, views: int
) -> list[list[Cell]]:
    """The first ``samples`` samples of a block in ``views`` views; rows are samples. ``path``: the cache with the
    teacher's answers, which need not hold the views.

    Raises UsageError for a block that is not there, IdentityError for a cache of other views, IntegrityError for damage
    and for pixels that the teacher did not see.
    """
    cache = open_cache(path) if path is not None else None
    if cache is not None and path is not None:
        require_views(cache, shards, recipe, pick_device(), path)
    if block >= len(shards.blocks):
        raise UsageError(f"--block: expected 0 to {len(shards.blocks) - 1}, found {block}")
    drawn = draw_visit(shards, recipe, shards.blocks[block], first_view, views)
    names = names_of(shards.classes)
    columns = [_column(shards, names, recipe, cache, drawn, i, samples) for i in range(views)]
    return [[column[row] for column in columns] for row in range(len(columns[0]))]


def _column(
    shards: Shards, names: Sequence[str], recipe: Recipe, cache: Cache | None, drawn: DrawnVisit, i: int, samples: int
) -> list[Cell]:
    plan, view = drawn.plan.view(i), drawn.first_view + i
    images = finish(drawn.pixels[i], plan, recipe)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    images = (images * std + mean).clamp(0, 1)
    targets = None
    if cache is not None and cache.has(drawn.block, view):
        cache.require_pixels(drawn.block, view, drawn.digests[i], shards.names[drawn.block.shard])
        targets = cache.read(drawn.block, view, 1)
    column = []
    for row in range(min(samples, len(images))):
        partner, lam = int(plan.partner[row]), float(plan.lam[row])
        title = names[int(drawn.labels[row])]
        if lam < 1.0:
            kind = "cut" if int(plan.box[row, 2]) > int(plan.box[row, 0]) else "mix"
            title += f" {lam:.3g} {kind} {names[int(drawn.labels[partner])]}"
        if targets is None:
            answer = "not cached"
        elif targets.logits is None:
            answer = names[int(targets.hard[0, row])]
        else:
            shares = torch.from_numpy(targets.logits[0, row]).softmax(0)
            best = shares.topk(min(3, len(shares)))
            named = [f"{names[c]} {p:.2f}" for p, c in zip(best.values.tolist(), best.indices.tolist())]
            answer = ", ".join(named)
        column.append(Cell(images[row].permute(1, 2, 0).numpy(), title, answer))
    return column


def save(grid: list[list[Cell]], out: Path) -> None:
    """Writes the picture as the file ``out``, a PNG. Raises UsageError for another suffix."""
    if out.suffix != ".png":
        raise UsageError(f"--out: expected a .png file, found {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure(grid).savefig(out, dpi=110)


def figure(grid: list[list[Cell]]) -> Figure:
    """The grid as a picture; under each view what the teacher said."""
    rows, columns = len(grid), len(grid[0])
    picture = Figure(figsize=(1.9 * columns, 2.25 * rows))
    picture.set_layout_engine("constrained", h_pad=0.08)
    axes = picture.subplots(rows, columns, squeeze=False)
    written = []
    for line, cell_row in zip(axes, grid):
        for place, cell in zip(line, cell_row):
            place.imshow(cell.image, interpolation="nearest")
            written += [place.set_title(cell.title, fontsize=7), place.set_xlabel(cell.answer, fontsize=6)]
            place.set_xticks([])
            place.set_yticks([])
    write(written)
    return picture
