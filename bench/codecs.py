"""What each codec costs and loses: bytes per view, and KL(teacher || stored) at temperatures 1 and 3.

python -m bench.codecs logits.npy              float32 (rows, C)
python -m bench.codecs work                    the teacher of params.yaml, run anew on three views
python -m bench.codecs                         simulated logits: 1,000 classes, peaked
"""

from pathlib import Path

import click
import numpy as np

from pipeline.cache.codec import CODECS, bytes_per_view, through_codec
from pipeline.data.shards import Shards
from pipeline.runtime import config
from pipeline.runtime.machine import device
from pipeline.runtime.stage import stage
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.label import label_visit
from pipeline.teacher.model import Teacher
from pipeline.views.drawn import draw_visit
from pipeline.views.recipe import Recipe


def log_softmax(logits: np.ndarray, tau: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / tau
    scaled -= scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def divergence(logits: np.ndarray, other: np.ndarray, tau: float) -> np.ndarray:
    """KL in nats per row, float64 (rows,)."""
    p, q = log_softmax(logits, tau), log_softmax(other, tau)
    return (np.exp(p) * (p - q)).sum(-1)


def simulated(rows: int) -> np.ndarray:
    chance = np.random.default_rng(0)
    logits = chance.normal(0, 1.5, (rows, 1000))
    logits[np.arange(rows), chance.integers(0, 1000, rows)] += chance.normal(9, 3, rows)
    return logits.astype(np.float32)


def from_teacher(work: Path, rows: int) -> np.ndarray:
    """The first ``rows`` answers of a finished run's teacher on its own views, in full precision."""
    params = Path("params.yaml")
    name, chosen = next(iter(config.load_each(params, "teachers", TeacherConfig).items()))
    recipe = config.load(params, f"recipes.{chosen.recipe}", Recipe)
    shards = Shards.open(work / "shards" / "train")
    weights = work / "teachers" / name / "model.safetensors"
    teacher = Teacher.load(chosen, weights, len(shards.classes), recipe, shards.block_size, device())
    drawn = (draw_visit(shards, recipe, block, 0, 3) for block in shards.blocks)
    pieces = [label_visit(teacher, recipe, visit).flatten(0, 1).numpy() for visit in drawn]
    return np.concatenate(pieces)[:rows]


@click.command(help=__doc__)
@click.argument("source", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--rows", default=4000, show_default=True)
@stage
def main(source: Path | None, rows: int) -> None:
    if source is None:
        logits = simulated(rows)
    elif source.suffix == ".npy":
        logits = np.load(source, allow_pickle=False).astype(np.float32)[:rows]
    else:
        logits = from_teacher(source, rows)
    classes = logits.shape[-1]
    top = np.exp(log_softmax(logits, 1.0)).max(-1).mean()
    print(f"{len(logits)} rows of {classes} classes, mean top-1 probability {top:.3f}")
    print("codec  bytes/view  KL tau 1 mean / max       KL tau 3 mean / max       argmax flips if it were not stored")
    for codec in CODECS:
        size = 2 + bytes_per_view(codec, classes)
        found = through_codec(codec, logits[None])
        if found.logits is None:
            print(f"{codec:5}  {size:10}  hard labels only")
            continue
        kl = [divergence(logits, found.logits[0], tau) for tau in (1.0, 3.0)]
        flips = int((found.logits[0].argmax(-1) != found.hard[0]).sum())
        cells = "   ".join(f"{values.mean():.2e} / {values.max():.2e}" for values in kl)
        print(f"{codec:5}  {size:10}  {cells}   {flips} of {len(logits)}")


if __name__ == "__main__":
    main()
