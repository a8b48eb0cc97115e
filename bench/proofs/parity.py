"""A cached run is the live run: the same student trained from the cache, live, and half and half, bit for bit.

\b
    python -m bench.proofs.parity                      200 steps, hard labels and each codec: the table of docs/EVIDENCE.md
    python -m bench.proofs.parity --shared-pairing 1   the same with partners of its own for every view
    python -m bench.proofs.parity --steps 8 --views 6 --samples 349 --epochs 0     a small size, as in the tests

Everything is real: digits packed into shards, DeiT's whole recipe (RandAugment, pixel erasing, Mixup and CutMix on every
view, r = 3), a teacher, the cache on disk, the training loop. Compared are the losses of every step as hex floats, and the
final weights.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import torch

from bench.timing import head, row
from pipeline.base import weights
from pipeline.cache.codec import CodecName
from pipeline.cache.reader import open_cache
from pipeline.student import train
from pipeline.student.export import live_fraction
from pipeline.student.inputs import Inputs
from tests.support.world import World, make_world, named, student, training

KINDS: tuple[tuple[str, CodecName], ...] = (
    ("hard", "none"),
    ("soft", "u8"),
    ("soft", "f16"),
    ("soft", "top4"),  # of ten classes it names seven
)


def losses(
    world: World, kind: str, supervision: str, steps: int, views: int, codec: CodecName, cache: Path, workers: int
) -> tuple[list[str], str]:
    """Per-step losses as hex floats and the hash of the final weights."""
    how = training(world, steps, period=views)
    chosen = student(supervision, kind, tau=3.0)
    opened = None if supervision == "live" else open_cache(cache, views=views)
    live = None if supervision == "cached" else world.live(codec)
    inputs = Inputs(world.shards, world.val, views, opened, live, None)
    seen: list[str] = []
    with tempfile.TemporaryDirectory() as runs:
        trained = train.train_student(
            replace(named(world, how, chosen), name=f"{kind} {supervision}"),
            inputs,
            Path(runs),
            workers,
            lambda _, loss: seen.append(loss.hex()),
        )
    print(f"  live_fraction {live_fraction(trained.rows):.2f}")
    return seen, weights.state_hash(trained.model.state_dict())


def compare(
    world: World, steps: int, views: int, kind: str, codec: CodecName, workers: int
) -> Iterator[tuple[str, ...]]:
    """Two rows of the table: distillation, codec, other way, equal losses of all, whether the final weights are equal."""
    half = world.label(codec, views, "1/2").path
    auto = losses(world, kind, "auto", steps, views, codec, half, workers)
    whole = world.label(codec, views).path
    cached = losses(world, kind, "cached", steps, views, codec, whole, workers)
    live = losses(world, kind, "live", steps, views, codec, whole, workers)
    for name, other in (("live", live), ("auto, half of the parts", auto)):
        same = sum(a == b for a, b in zip(cached[0], other[0], strict=True))
        yield kind, codec, name, f"{same} of {len(cached[0])}", "equal" if cached[1] == other[1] else "DIFFER"


@click.command(help=__doc__)
@click.option("--steps", default=200, show_default=True)
@click.option("--views", default=12, show_default=True, help="V, a multiple of 6")
@click.option("--samples", default=1437, show_default=True)
@click.option("--arch", default="regnety_002", show_default=True, help="The teacher.")
@click.option("--shared-pairing", default=3, show_default=True, help="r, so that an image's views stand together; or 1")
@click.option("--epochs", default=4.0, show_default=True, help="For which the teacher is fitted.")
@click.option("--codec", help="Only this codec's rows of the table.")
def main(
    steps: int, views: int, samples: int, arch: str, shared_pairing: int, epochs: float, codec: str | None
) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # on a GPU no two trainings are equal without these two
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), samples, arch, epochs, shared_pairing=shared_pairing)
        kinds = [(kind, name) for kind, name in KINDS if codec in (None, name)]
        print("", head("distillation", "codec", "cached against", "equal losses", "final weights"), sep="\n")
        equal = True
        for cells in (cells for kind, name in kinds for cells in compare(world, steps, views, kind, name, workers=1)):
            print(row(*cells), flush=True)
            equal &= cells[-2:] == (f"{steps} of {steps}", "equal")
    if not equal:
        raise SystemExit("a cached run is not the live run")


if __name__ == "__main__":
    main()
