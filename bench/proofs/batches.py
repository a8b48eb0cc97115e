"""The loader's batches are right: every bit of every step, with any number of workers.

\b
    python -m bench.proofs.batches                       40 steps of 64; exits 1 on a wrong bit
    python -m bench.proofs.batches --steps 6             a small size

Batches of 0 to 3 workers, and of 2 with memory for one visit ahead, against batches put together plainly from visits that are
drawn into memory of their own.
"""

import multiprocessing
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import click
import torch
import xxhash

from pipeline.data.shards import Shards
from pipeline.runtime.machine import device
from pipeline.student.train import make_schedule
from pipeline.training.batches import Loader
from pipeline.training.schedule import Schedule, windows
from pipeline.views import ring
from pipeline.views.drawn import DrawnVisit, draw_visit
from pipeline.views.finish import finish
from pipeline.views.recipe import Recipe
from tests.support.world import make_world, training


def wrong_bits(folder: Path, steps: int) -> int:
    """How many batches differ from those that are put together plainly."""
    world, lanes = make_world(folder), range(2)
    schedule = make_schedule(training(world, steps, lanes=2, window=2), world.shards, 6)
    expected = [digest(*step) for step in plainly(world.shards, world.recipe, schedule, steps)]
    loader = Loader(schedule, lanes, world.shards, world.recipe, device(), 2)
    size = loader.ring()
    wrong = 0
    for number, short in ((0, False), (1, False), (2, False), (3, False), (2, True)):
        little = patch.object(ring, "free_memory", lambda: int((size.held + 1.5) * size.slot / 0.8))
        with little if short else nullcontext():
            # All are taken before one is looked at: no later batch may touch them, whatever a GPU has still to copy.
            taken = list(replace(loader, workers=number).batches(0, steps))
        found = [digest(batch.images, batch.labels, batch.partner_labels, batch.lam) for batch in taken]
        wrong += abs(len(found) - len(expected)) + sum(a != b for a, b in zip(found, expected))
    return wrong


def digest(*tensors: torch.Tensor) -> str:
    state = xxhash.xxh3_64()
    for tensor in tensors:
        state.update(tensor.cpu().numpy().tobytes())
    return state.hexdigest()


def plainly(shards: Shards, recipe: Recipe, schedule: Schedule, steps: int) -> list[tuple[torch.Tensor, ...]]:
    """Images, labels, partners' labels and shares of each step, from visits that are drawn into memory of their own and
    finished whole; of a step's pairs of one lane, those of one visit stand together."""
    lanes: list[list[tuple[int, int, DrawnVisit, int, int]]] = [[] for _ in range(schedule.lanes)]
    for number, window in enumerate(windows(schedule, range(schedule.lanes), 0, steps)):
        drawn = [draw_visit(shards, recipe, shards.blocks[v.block], v.first_view, v.repeats) for v in window.visits]
        lanes[window.lane] += [(number, i, drawn[i], view, pair) for i, view, pair in window.order.tolist()]
    given = []
    for first in range(0, steps * schedule.pairs_per_step, schedule.pairs_per_step):
        rows: list[tuple[torch.Tensor, ...]] = []
        for lane in lanes:
            for _, _, of, view, row in sorted(lane[first : first + schedule.pairs_per_step], key=lambda each: each[:2]):
                images = finish(of.pixels[view], of.plan.view(view), recipe)
                a, b = of.pairs[view, row].tolist()
                rows += [(images[x], of.labels[x], of.labels[y], of.plan.lam[view, x]) for x, y in ((a, b), (b, a))]
        given.append(tuple(torch.stack(column) for column in zip(*rows)))
    return given


@click.command(help=__doc__)
@click.option("--steps", default=40, show_default=True)
@click.option("--start", type=click.Choice(["fork", "forkserver", "spawn"]), help="How workers start.")
def main(steps: int, start: str | None) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method(start)
    with tempfile.TemporaryDirectory() as folder:
        wrong = wrong_bits(Path(folder), steps)
    print(f"{wrong} of {5 * steps} batches differ from plain ones")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
