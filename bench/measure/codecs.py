"""What each codec costs and loses: bytes on disk and CPU time per view, and how far the stored targets are from the
teacher's, as KL(teacher || stored) in nats and as total variation, at temperatures 1, 3 and 10.

\b
    python -m bench.measure.codecs                     the tables of docs/EVIDENCE-codecs.md: five teachers, some minutes
    python -m bench.measure.codecs --only lite0        the real one alone
    python -m bench.measure.codecs logits.npy          float32 (rows, C) of a teacher of yours
    python -m bench.measure.codecs work                the teacher of params.yaml, run anew on three views

Teachers: EfficientNet-Lite0 with its ImageNet weights (``lite0``: 48 views of 18 photographs under DeiT's recipe), the demo's (10
classes), one of 100 classes (numbers of two of scikit-learn's digits), both fitted here as in the demo, and simulated logits of
1,000 classes, peaked and smoothed. Times are CPU times with parts of 30 views: to pack an answer, to
commit a part (digests and fsyncs included), and to read its blocks in three views at a time.
Beside the codecs, at equal K: TinyViT's layout (float16 probabilities, int16 classes, an int32 seed; what is missing to 1 is
spread evenly over the other classes), and FKD's marginal layout, which has no rest.
"""

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from PIL import Image
from scipy.special import log_softmax, softmax

from bench.photo_shards import photo_shards
from bench.timing import head, interleaved, machine, microseconds, row
from pipeline.cache.arrays import PartRows
from pipeline.cache.codec import codecs_for, hard_labels, pack, through_codec, top_k
from pipeline.cache.fidelity import codec_divergence
from pipeline.cache.layout import Layout
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.reader import open_cache
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.runtime import config
from pipeline.runtime.config import validate
from pipeline.runtime.machine import device
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
from pipeline.teacher import fit
from pipeline.teacher.config import NamedTeacher
from pipeline.teacher.label import label_visit
from pipeline.teacher.model import Teacher
from pipeline.training.config import FitConfig
from pipeline.views.chance import Draws
from pipeline.views.drawn import draw_visit
from tests.support import fake_teacher as fake
from tests.support.lite0 import CLASSES, lite0, photographs
from tests.support.logits import peaked, smoothed

TAUS = (1.0, 3.0, 10.0)
PARAMS = Path("params.yaml")


def variation(logits: np.ndarray, other: np.ndarray, tau: float) -> np.ndarray:
    """Total variation per row, float64 (rows,)."""
    return np.abs(softmax(logits / tau, -1) - softmax(other / tau, -1)).sum(-1) / 2


def probabilities_and_uniform_rest(logits: np.ndarray, k: int) -> np.ndarray:
    """TinyViT's targets as logits (dataset_wrapper.py of microsoft/Cream): its bytes are 4 + 4 K."""
    probabilities = softmax(logits.astype(np.float64), -1)
    top = probabilities >= np.partition(probabilities, -k, -1)[:, -k, None]
    kept = np.where(top, probabilities, 0).astype(np.float16).astype(np.float64)
    # Rounding can make the kept ones more than 1, and one of them 0; TinyViT does not ask. 2^-24 is float16's smallest.
    rest = np.maximum(1 - kept.sum(-1, keepdims=True), 2.0**-24) / (logits.shape[-1] - k)
    return np.log(np.where(top, np.maximum(kept, 2.0**-24), rest))


def no_rest(logits: np.ndarray, k: int) -> np.ndarray:
    return np.where(logits >= np.partition(logits, -k, -1)[:, -k, None], logits, -np.inf)


def answers(shards: Shards, weights: Path, named: NamedTeacher, views: int = 3) -> np.ndarray:
    """A teacher's answers on so many views of its shards, in full precision."""
    recipe = named.recipe
    teacher = Teacher.load(named.config, weights, len(shards.classes), recipe, shards.block_size, device())
    drawn = (draw_visit(shards, recipe, block, first, 3) for first in range(0, views, 3) for block in shards.blocks)
    return np.concatenate([label_visit(teacher, recipe, visit).flatten(0, 1).numpy() for visit in drawn])


def teacher_of_params() -> NamedTeacher:
    """The first teacher of params.yaml."""
    return NamedTeacher.load(PARAMS, next(iter(config.read_yaml(PARAMS)["teachers"])))


def fitted(data: DataConfig, source: Path, folder: Path) -> np.ndarray:
    """Packs a source, fits the teacher of params.yaml on it as the demo does, and asks it."""
    teacher = teacher_of_params()
    how = config.load(PARAMS, f"teachers.{teacher.name}.fit", FitConfig)
    classes, splits = read_splits(data, source, scan(data, source))
    pack_splits(data, classes, splits, folder / "shards", 1)
    train, val = Shards.open(folder / "shards" / "train"), Shards.open(folder / "shards" / "val")
    trained = fit.fit_teacher(teacher, how, fit.FitInputs(train, val, None), folder / "run", 0)
    print(f"a teacher of {len(classes)} classes: {trained.top1:.1f} % top-1 on its validation split")
    fit.write_teacher(trained, teacher, folder / "teacher")
    return answers(train, folder / "teacher" / "model.safetensors", teacher)


def write_numbers(root: Path, per_class: int = 30) -> None:
    """An ImageFolder of the numbers 00 to 99 of two digits side by side, 16 x 8 pixels in a square of 16."""
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)
    of = [np.flatnonzero(bunch.target == digit) for digit in range(10)]
    for split, count in (("train", per_class), ("val", per_class // 3)):
        for number in range(100):
            (root / split / f"{number:02d}").mkdir(parents=True)
            for i in range(count):
                draws = Draws("numbers", split, number, i)
                pair = [pixels[digits[draws.below(len(digits))]] for digits in (of[number // 10], of[number % 10])]
                image = np.pad(np.concatenate(pair, 1), ((4, 4), (0, 0)))
                Image.fromarray(image).save(root / split / f"{number:02d}" / f"{i}.png")


def real(folder: Path) -> np.ndarray:
    """EfficientNet-Lite0's answers on 48 views of 18 photographs."""
    files = photographs()
    shards = photo_shards(folder / "lite0", files, len(files), len(files), CLASSES)
    return answers(shards, folder / "lite0.safetensors", lite0(folder / "lite0.safetensors"), 48)


def teachers(folder: Path, rows: int, only: str | None) -> Iterator[tuple[str, np.ndarray]]:
    yield "EfficientNet-Lite0, ImageNet's 1,000 classes", real(folder)[:rows]
    if only:
        return
    demo = fitted(config.load(PARAMS, "data", DataConfig), Path(), folder / "demo")
    yield "demo, 10 classes", demo[:rows]
    write_numbers(folder / "numbers")
    numbers = validate(DataConfig, {"source": "folder", "shard_size": 1024, "block": 64, "seed": 0}, "data")
    yield "fitted, 100 classes", fitted(numbers, folder / "numbers", folder / "fitted")[:rows]
    yield "simulated, peaked, 1,000 classes", peaked(rows)
    yield "simulated, smoothed, 1,000 classes", smoothed(peaked(rows))


def costs(codec: str, rows: np.ndarray) -> tuple[float, float, float, float]:
    """Per view of ``rows`` (3, n, C): bytes on disk (hard labels, logits and record), CPU us to pack, to write and to read."""
    shape = Layout(rows.shape[1], rows.shape[-1], 1024, 256, 30, codec)
    packing = microseconds(lambda: (pack(codec, rows), hard_labels(rows)), rows[..., 0].size)
    packed = pack(codec, rows)
    pixels, hard = fake.pixels(shape, (0, 0)), many(hard_labels(rows))
    part = PartRows((0, 0), hard, None if packed is None else many(packed), pixels, "s")
    with tempfile.TemporaryDirectory() as root:
        pool = open_pool(Path(root), fake.identity(shape))
        writing = microseconds(lambda: commit_part(pool, part), hard.size)
        cache, blocks = open_cache(pool.path), fake.blocks(shape)
        cache.read(blocks[0], 0, 3)  # opens the arrays and parses the record
        visits = [(block, view) for block in blocks for view in range(0, 30, 3)]
        reading = microseconds(lambda: [cache.read(block, view, 3) for block, view in visits], hard.size)
        size = sum(path.stat().st_size for path in pool.paths((0, 0))) / hard.size
    return size, packing, writing, reading


def many(rows: np.ndarray) -> np.ndarray:
    """Thirty views made of three (3, n, ...), each of samples in an order of its own: labels as alike as any two rows'."""
    orders = [np.random.default_rng(view).permutation(rows.shape[1]) for view in range(30)]
    return np.stack([rows[view % 3][order] for view, order in enumerate(orders)])


def table(name: str, logits: np.ndarray, rounds: int) -> None:
    classes = logits.shape[-1]
    log_p = log_softmax(logits.astype(np.float64), -1)
    top, entropy = np.exp(log_p).max(-1).mean(), -(np.exp(log_p) * log_p).sum(-1).mean()
    print(f"\n**{name}** ({len(logits)} rows; mean top-1 probability {top:.2f}, entropy {entropy:.2f} nats)\n")
    taus = [f"{name} {tau:g}" for name in ("KL", "TV") for tau in TAUS]
    print(head("stored", "B/view", *taus, "argmax kept", "pack us", "write us", "read us"))
    samples = min(1024, len(logits) // 768 * 256)  # whole blocks, which a last one would be padded to
    rows = logits[: 3 * samples].reshape(3, samples, -1)
    found = interleaved({codec: partial(costs, codec, rows) for codec in codecs_for(classes)}, rounds)
    for codec, measured in found.items():
        size, *spent = (f"{statistics.median(column):.1f}" for column in zip(*measured))
        kept = through_codec(codec, logits[None])
        print(row(f"`{codec}`", size, *fidelity(logits, None if kept.logits is None else kept.logits[0]), *spent))
        k = top_k(codec)
        if k is not None:
            theirs = fidelity(logits, probabilities_and_uniform_rest(logits, k))
            print(row(f"TinyViT, K = {k}", 4 + 4 * k, *theirs, "", "", ""))
            print(row(f"no rest, K = {k}", 4 * k, *fidelity(logits, no_rest(logits, k)), "", "", ""))


def fidelity(logits: np.ndarray, other: np.ndarray | None) -> list[str]:
    """The columns KL, total variation and argmax of the table."""
    if other is None:
        return [*[""] * 6, "all"]
    cells = [f"{codec_divergence(logits, other, tau).mean():.2g}" for tau in TAUS]
    cells += [f"{variation(logits, other, tau).mean():.2g}" for tau in TAUS]
    lost = int((other.argmax(-1) != logits.argmax(-1)).sum())
    return [*cells, f"all but {lost}" if lost else "all"]


@click.command(help=__doc__)
@click.argument("source", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--rows", default=3072, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--only", type=click.Choice(["lite0"]))
@stage
def main(source: Path | None, rows: int, rounds: int, only: str | None) -> None:
    np.seterr(divide="ignore", invalid="ignore")  # the log of nothing, where there is no rest
    print(machine())
    if source is None:
        with tempfile.TemporaryDirectory() as folder:
            for name, logits in teachers(Path(folder), rows, only):
                table(name, logits, rounds)
    elif source.suffix == ".npy":
        table(source.name, np.load(source, allow_pickle=False).astype(np.float32)[:rows], rounds)
    else:
        teacher, work = teacher_of_params(), Work(source)
        found = answers(Shards.open(work.split("train")), work.teacher_weights(teacher.name), teacher)
        table(teacher.name, found[:rows], rounds)


if __name__ == "__main__":
    main()
