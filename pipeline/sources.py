"""Where samples come from: one configuration and one door to every kind of source (layer L1).

``scan`` lists what there is (cheap: names, sizes, times), ``read_splits`` turns a listing into samples. Both report all
problems at once, before any long work.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline import cifar, folders, foreign
from pipeline.config import Config
from pipeline.images import encode_png
from pipeline.listing import Entry, File, Problems, Split, rejection
from pipeline.runtime import UsageError

SPLITS = ("train", "val")
_DIGITS = "scikit-learn load_digits"
_DIGITS_VAL = 360  # of 1,797, so 1,437 train
_ROOT = "set DATA_ROOT (data=imagenet: IMAGENET_ROOT) to where the images are"


class Expected(Config):
    """Known counts, refused when different (ImageNet: 1,281,167 and 50,000)."""

    train: int = Field(ge=1)
    val: int = Field(ge=1)


class DataConfig(Config):
    """Section ``data``: which images, and how they are packed."""

    source: Literal["digits", "folder", "imagenet", "cifar10", "cifar100", "webdataset"]
    classes: int | None = Field(None, ge=2, le=65_534)  # expected C; None takes what there is
    expected: Expected | None = None
    max_quarantined: int = Field(0, ge=0)  # unusable files left out with a reason; more of them refuse
    md5: dict[str, str] = Field(default_factory=dict)  # CIFAR: batch name to the published md5
    shard_size: int = Field(1024, ge=2)  # S
    block: int = Field(256, ge=2)  # b
    seed: int = Field(0, ge=0, lt=2**63)  # of the order of training samples
    resize: int | None = Field(None, ge=16)  # shorter side in px; None keeps the bytes verbatim

    @model_validator(mode="after")
    def _divides(self) -> "DataConfig":
        if self.block % 2 or self.shard_size % self.block:
            raise ValueError(f"block {self.block} must be even and divide shard_size {self.shard_size}")
        return self


def find_root(source: str, environment: Mapping[str, str]) -> Path:
    """The root from IMAGENET_ROOT (imagenet) or DATA_ROOT; the digits need none. Raises UsageError."""
    if source == "digits":
        return Path()
    variable = _variable(source)
    value = environment.get(variable, "")
    if not value:
        raise UsageError(f"{variable} is not set: data source {source!r} needs it, e.g. {variable}=/data/{source}")
    return Path(value)


def _variable(source: str) -> str:
    return "IMAGENET_ROOT" if source == "imagenet" else "DATA_ROOT"


def expected_classes(config: DataConfig, environment: Mapping[str, str]) -> int | None:
    """C, as far as the configuration and the names of the training directories tell it; else None."""
    if config.classes is not None or config.source == "webdataset":
        return config.classes
    if config.source in ("folder", "imagenet"):
        root = environment.get(_variable(config.source))
        return len(folders.class_names(Path(root) / "train")) or None if root else None
    return 100 if config.source == "cifar100" else 10


def scan(config: DataConfig, root: Path) -> list[File]:
    """Lists the source's files in order. Raises UsageError or IntegrityError with every problem found."""
    if config.source == "digits":
        return [_digits_file()]
    problems = Problems()
    _check_root(root)
    match config.source:
        case "folder" | "imagenet":
            listed = folders.scan(root, problems, imagenet=config.source == "imagenet")
            images = [file for file in listed if file.path.split("/", 1)[0] in SPLITS]  # not the label lists
            rejected = [(file.path, reason) for file in images if (reason := rejection(file))]
            check_quarantine(rejected, config.max_quarantined, problems)
        case "cifar10" | "cifar100":
            listed = cifar.scan(root, config.source, problems)
        case _:
            listed = foreign.scan(root, problems)
    problems.check(root)
    return listed


def read_splits(config: DataConfig, root: Path, listed: list[File]) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Class names in label order and the samples of ``train`` and ``val`` in natural order, from a listing.

    Raises UsageError or IntegrityError with every problem found: class counts, double keys, tars, labels.
    """
    problems = Problems()
    _check_root(root)
    match config.source:
        case "digits":
            classes, splits = _digits(listed, problems)
        case "folder" | "imagenet":
            classes, splits = folders.read(root, listed, problems, imagenet=config.source == "imagenet")
        case "cifar10" | "cifar100":
            classes, splits = cifar.read(root, config.source, listed, config.md5, problems)
        case _:
            classes, splits = foreign.read(root, listed, problems)
    problems.check(root)
    if config.classes is not None and len(classes) != config.classes:
        problems.usage(f"data.classes is {config.classes}, but the source has {len(classes)} classes")
    if len(classes) == 1:
        problems.usage(f"only one class, {classes[0]!r}; a classifier needs two")
    if len(classes) > 65_534:
        problems.usage(f"{len(classes)} classes; hard labels are 16 bits wide, so 65,534 is the most")
    for name, split in splits.items():
        _check_keys(name, split.entries, problems)
        found = len(split.entries) + len(split.rejected)
        if config.expected is not None and found != (wanted := getattr(config.expected, name)):
            problems.usage(f"{name}: data.expected.{name} is {wanted}, but the source has {found} files")
        if not split.entries:
            problems.usage(f"{name}: no images")
    problems.check(root)
    return classes, splits


def check_quarantine(rejected: list[tuple[str, str]], most: int, problems: Problems) -> None:
    """Adds every rejected file as a problem if there are more than ``most`` (``data.max_quarantined``)."""
    if len(rejected) > most:
        for path, reason in rejected:
            problems.damage(f"{path!r}: {reason}")
        problems.usage(f"{len(rejected)} unusable files, data.max_quarantined is {most}: mend, remove or allow them")


def _check_root(root: Path) -> None:
    try:
        empty = not any(root.iterdir())
    except FileNotFoundError:
        raise UsageError(f"{root}: the data root is missing; {_ROOT}") from None
    except OSError as error:  # no directory, or no permission
        raise UsageError(f"{root}: the data root can't be read: {error.strerror}; {_ROOT}") from None
    if empty:
        raise UsageError(f"{root}: the data root is empty; {_ROOT}")


def _check_keys(name: str, entries: list[Entry], problems: Problems) -> None:
    first: dict[str, Entry] = {}
    for entry in entries:
        if (other := first.setdefault(entry.key, entry)) is not entry:
            problems.usage(f"{name}: key {entry.key!r} twice: {other.path!r} and {entry.path!r}; rename one")


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (1797, 8, 8) and labels int64 (1797,) of scikit-learn's digits (UCI, Alpaydin)."""
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    bunch = load_digits()
    return (bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target.astype(np.int64)


def _digits_file() -> File:
    pixels, labels = _load_digits()
    data = pixels.tobytes() + labels.astype("<i8").tobytes()
    return File(_DIGITS, len(data), hashlib.sha256(data).hexdigest())


def _digits(listed: list[File], problems: Problems) -> tuple[tuple[str, ...], dict[str, Split]]:
    if listed != [found := _digits_file()]:
        problems.usage(f"the listing has {listed}, but the installed data are {found}; run: python -m stages.index")
    pixels, labels = _load_digits()
    held_out = _stratified(labels, _DIGITS_VAL)
    splits: dict[str, Split] = {"train": Split([]), "val": Split([])}
    for row, label in enumerate(labels.tolist()):
        key, data = f"{label}/{row:04d}", encode_png(pixels[row])
        entry = Entry(f"{_DIGITS}[{row}]", key, label, "png", len(data), data=data)
        splits["val" if row in held_out else "train"].entries.append(entry)
    return tuple(str(digit) for digit in range(10)), splits


def _stratified(labels: np.ndarray, total: int) -> set[int]:
    """``total`` rows, each class in proportion (largest remainders), chosen by a hash of the row: the same always."""
    counts = np.bincount(labels)
    exact = counts * total / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[: total - quota.sum()]] += 1
    chosen: set[int] = set()
    for label, number in enumerate(quota):
        rows = np.flatnonzero(labels == label).tolist()
        rows.sort(key=lambda row: hashlib.blake2b(f"digits {row}".encode(), digest_size=16).digest())
        chosen.update(rows[:number])
    return chosen
