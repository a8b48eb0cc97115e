"""Whether the outputs of weights from elsewhere stand for the data's classes, in their order.

Where they don't, every stage runs and a student learns noise. Names beside the weights are compared; then the model answers
validation images. A weak teacher passes: refused is one that other names for its outputs, chosen on half of the images, make
better on the other half.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from pipeline.base.files import parse_json, read_small
from pipeline.data.shards import Shards
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import from_all_ranks, rank, world_size
from pipeline.runtime.progress import progress, say
from pipeline.runtime.text import few
from pipeline.teacher.config import NamedTeacher
from pipeline.views.validation import views_of_rows

_IMAGES = 2000  # at most
_LEVEL = 1e-4  # a correct teacher is refused less often than this

Pairs = list[tuple[int, int]]  # an output, and the class that it stands for


def check_class_order(
    teacher: NamedTeacher, answer: Callable[[torch.Tensor], torch.Tensor], names: object, val: Shards
) -> float:
    """Percent of at most 2,000 images of ``val`` that ``answer``, finished images (n, 3, R, R) -> scores (n, C), gets right;
    over all ranks. ``names``: of its outputs, None where they are not known.

    Raises UsageError where outputs stand for other classes, unless the teacher's ``class_order`` is ``given``.
    """
    classes, who = val.classes, f"teacher {teacher.name}"
    _judge(teacher, other_names(names, classes), classes, "the class names beside its weights are")
    apart = [(name, own) for name, own in zip(listed_names(names, len(classes)), classes) if name not in classes]
    if apart:
        of = f"{len(apart)} of its {len(classes)} class names are not the data's, first {apart[0][0]!r} for {apart[0][1]!r}"
        say(f"warning: {who}: {of}; so its answers alone tell whether its classes are these")
    labels = np.concatenate([val.labels(block) for block in val.blocks])
    rows = stratified(labels, _IMAGES)
    answers, labels = _answers(teacher, answer, val, rows), labels[rows]
    right, common = int((answers == labels).sum()), np.bincount(labels)
    share = 100 * right / len(rows)
    say(f"{who}: {share:.2f} % top-1 on {len(rows)} validation images")
    _judge(teacher, better_order(answers, labels), classes, f"on {len(rows)} validation images its answers are")
    if right <= common.max():
        most = f"{classes[common.argmax()]!r} for every image ({100 * common.max() / len(rows):.2f} %)"
        say(f"warning: {who}: it is no better than {most}; are these the weights for these classes?")
    return share


def names_beside(weights: Path) -> object:
    """``label_names`` of timm's ``config.json`` beside a file of weights, or the lines of ``labels.txt``; None without."""
    try:
        found = parse_json(read_small(weights.parent / "config.json"))
        if isinstance(found, dict) and found.get("label_names") is not None:
            return found["label_names"]
    except (OSError, ValueError):  # none, or of another program
        pass
    try:
        return read_small(weights.parent / "labels.txt").decode("utf-8").splitlines()
    except (OSError, ValueError):
        return None


def other_names(names: Any, classes: Sequence[str]) -> Pairs:
    """The outputs whose names, each given once, are those of another class."""
    listed, place = listed_names(names, len(classes)), {name: i for i, name in enumerate(classes)}
    count = Counter(listed)
    return [(i, place[name]) for i, name in enumerate(listed) if count[name] == 1 and place.get(name, i) != i]


def listed_names(names: Any, count: int) -> list[str]:
    """``names`` of ``count`` outputs, of which timm takes ``number: name`` as well; none where they are anything else."""
    if isinstance(names, dict):
        names = [names.get(str(i), names.get(i)) for i in range(count)]
    return list(map(str, names)) if isinstance(names, list | tuple) and len(names) == count else []


def stratified(labels: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` rows in the order of their ``labels`` (N,), of each class its share; always the same ones."""
    places = np.linspace(0, len(labels) - 1, min(len(labels), most)).round().astype(int)
    return np.argsort(labels, kind="stable")[places]


def better_order(answers: np.ndarray, labels: np.ndarray) -> Pairs:
    """The outputs that stand for other classes; none where ``answers`` (n,), in the order of ``labels`` (n,), tell of no
    better order than the given one.

    The one-to-one order that fits every second answer best must, on the others, be right more often than the given order by
    McNemar's exact test, and more often than the commonest label.
    """
    occur, places = np.unique(np.stack([answers, labels]), return_inverse=True)
    own, label = places.reshape(2, -1)
    counts = np.eye(len(occur)) * (0.5 / len(occur))  # equally good orders give way to the given one
    np.add.at(counts, (own[::2], label[::2]), 1)
    order = linear_sum_assignment(counts, maximize=True)[1]
    given, other = (own == label)[1::2], (order[own] == label)[1::2]
    gained, lost = int((other & ~given).sum()), int((given & ~other).sum())
    beaten = gained > lost and binomtest(gained, gained + lost, alternative="greater").pvalue < _LEVEL
    if not beaten or other.sum() <= np.bincount(label[1::2]).max():
        return []
    moved = [i for i in np.argsort(-counts[np.arange(len(occur)), order], kind="stable") if order[i] != i]
    return [(int(occur[i]), int(occur[order[i]])) for i in moved]


def _answers(
    teacher: NamedTeacher, answer: Callable[[torch.Tensor], torch.Tensor], val: Shards, rows: np.ndarray
) -> np.ndarray:
    """The largest output (n,) for each of these rows of ``val``; each rank asks about some of them, in the order on disk."""
    asked = np.array_split(np.sort(rows), world_size())
    own, mine = list[np.ndarray](), asked[rank()]
    with progress(f"teacher {teacher.name}: order of classes", len(mine), "images") as tick:
        for i in range(0, len(mine), val.block_size):
            views = views_of_rows(val, mine[i : i + val.block_size].tolist(), teacher.recipe)
            own.append(answer(views).argmax(1).cpu().numpy())
            tick(len(views))
    found = np.concatenate([part for those in from_all_ranks(own) for part in those])
    return found[np.searchsorted(np.sort(rows), rows)]


def _judge(teacher: NamedTeacher, pairs: Pairs, classes: Sequence[str], what: str) -> None:
    if not pairs:
        return
    shown = few([f"{classes[i]!r} stands for {classes[other]!r}" for i, other in pairs], 5, "; ")
    text = f"teacher {teacher.name}: {what} in another order than the data's classes: the output of {shown}"
    if teacher.config.class_order == "given":
        say(f"warning: {text}")
        return
    raise UsageError(
        f"{text}; name the data's classes so that they come in the order of the weights, or in teachers.{teacher.name} give "
        f"outputs in the order of the data, or set class_order: given if the order is right"
    )
