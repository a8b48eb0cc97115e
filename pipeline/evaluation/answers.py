"""What a model answered on a test set, as one file: students, teachers and undistilled twins alike.

Every analysis is a function of such files. Logits are float16; the rank of the label and the first class are kept as they
were in float32, so that accuracies and agreements are exact.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import difference
from pipeline.base.files import canonical_json, parse_json, write_durably
from pipeline.base.sums import require_unchanged
from pipeline.runtime.errors import IdentityError, IntegrityError, UsageError

FORMAT = "offline-deit predictions 1"
HEADS = ("class", "distillation", "fused", "mean")  # mean: timm's eval, which averages the logits
_KINDS = ("logits", "ranks", "hard")  # of columns, each of which there is by head


@dataclass(frozen=True)
class Answers:
    """N samples of a test set in natural order.

    ``identity``: who answered (``model``: its weights' hash), ``shards``, ``classes`` and the evaluation ``recipe`` of
    what it saw. ``labels`` uint16 (N,). ``digests`` (blocks,): xxh3_64 of the pixels of each block. ``logits`` float16
    (N, C) by head, ``ranks`` uint16 (N,) of the label and ``hard`` uint16 (N,), the first class, by head and for what
    the heads give together.
    """

    identity: Mapping[str, Any]
    labels: np.ndarray
    digests: np.ndarray
    logits: Mapping[str, np.ndarray]
    ranks: Mapping[str, np.ndarray]
    hard: Mapping[str, np.ndarray]

    @classmethod
    def of_columns(cls, identity: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> "Answers":
        """Answers from their columns as the file names them: ``labels``, ``digests`` and ``<kind>.<head>``."""
        found: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in _KINDS}
        for name, column in columns.items():
            kind, _, head = name.partition(".")
            if kind in found:
                found[kind][head] = column
        return cls(identity, columns["labels"], columns["digests"], **found)

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(head for head in HEADS if head in self.ranks)

    @property
    def best(self) -> str:
        """The head that counts: fused (the paper's joint classifier) where there are two, else class."""
        return "fused" if "fused" in self.ranks else "class"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.identity["classes"])


def write_answers(path: Path, answers: Answers) -> int:
    """Writes the ``.npz`` durably, the same bytes for the same answers; its size in bytes."""
    columns = {"labels": answers.labels, "digests": answers.digests.astype("S16")}
    for kind in _KINDS:
        columns |= {f"{kind}.{head}": column for head, column in getattr(answers, kind).items()}
    identity = canonical_json({"format": FORMAT, **answers.identity})
    buffer = io.BytesIO()
    # NumPy's types take an array by name for savez's own switch allow_pickle.
    np.savez(buffer, identity=np.frombuffer(identity, np.uint8), **columns)  # type: ignore[arg-type]
    write_durably(path, buffer.getvalue())
    return buffer.tell()


def read_answers(path: Path, again: str) -> Answers:
    """The answers in ``path``. ``again``: the command that writes them.

    Raises UsageError where there is no file, IntegrityError for damage.
    """
    require_unchanged(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; write it with: {again}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        identity = parse_json(columns["identity"].tobytes())
        if identity.pop("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT!r}")
        found = Answers.of_columns(identity, columns | {"digests": columns["digests"].astype("U16")})
        _require_whole(found)
        return found
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path}: not whole answers ({error!r}); write them again with: {again}") from None


def _require_whole(found: Answers) -> None:
    """Raises ValueError for columns of other lengths or types."""
    samples, classes = len(found.labels), len(found.classes)
    for head in found.ranks:
        for column in (found.ranks[head], found.hard[head]):
            if column.shape != (samples,) or column.dtype != np.uint16 or (samples and column.max() >= classes):
                raise ValueError(f"head {head}: expected uint16 ({samples},) below {classes}, found {column.dtype}")
    for head, column in found.logits.items():
        if column.shape != (samples, classes) or column.dtype != np.float16:
            raise ValueError(f"head {head}: expected float16 logits ({samples}, {classes}), found {column.shape}")


def require_answers_of(model: str, found: Answers, where: Path, again: str) -> None:
    """Raises IdentityError unless the model with weights of hash ``model`` gave these answers."""
    if found.identity["model"] != model:
        raise IdentityError(
            f"{where}: answers of another model: expected weights {model}, found {found.identity['model']}; write them "
            f"again with: {again}"
        )


def require_same_images(one: Answers, other: Answers, names: tuple[str, str]) -> None:
    """Raises IdentityError unless both answered the same images of the same classes, IntegrityError where the recipes are
    equal and the pixels are not: an image library has changed between them."""
    keys = ("shards", "classes")
    apart = difference.differences({k: one.identity[k] for k in keys}, {k: other.identity[k] for k in keys})
    if apart or not np.array_equal(one.labels, other.labels):
        raise IdentityError(
            f"{names[0]} and {names[1]} answered other images, so they can't be compared:\n"
            f"{difference.describe(apart) or '  labels differ'}\nevaluate both again with: dvc repro"
        )
    if one.identity["recipe"] == other.identity["recipe"] and not np.array_equal(one.digests, other.digests):
        block = int((one.digests != other.digests).argmax())
        raise IntegrityError(
            f"{names[0]} and {names[1]} saw other pixels of the same images (first in block {block}: xxh3_64 "
            f"{one.digests[block]} and {other.digests[block]}): the image library has changed between them; evaluate "
            f"both again with: dvc repro -f answers evaluate"
        )
