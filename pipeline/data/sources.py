"""Where samples come from: one configuration and one door to every kind of source.

``scan`` lists the files (cheap: names, sizes, times), ``read_splits`` turns a listing into samples. Both report all problems
at once, before any long work.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.base.constraints import MAX_CLASSES, require_blocks
from pipeline.data import cifar, digits, folders, webdataset_tars
from pipeline.data.images import MAX_PIXELS, Rule
from pipeline.data.index_file import Order
from pipeline.data.listing import Entry, File, Problems, Split, named_as_image, quarantine_reason
from pipeline.data.splits import divide, hold_out, note_stray_labels
from pipeline.runtime.config import Config
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import home_expanded

_NO_IMAGES = "without images, stages run alone on what is there: dvc pull, then dvc repro --single-item train@NAME"
_ROOT = "set DATA_ROOT (data=imagenet: IMAGENET_ROOT) to where the images are"


class Expected(Config):
    """Known counts of images; other counts are refused."""

    train: int = Field(ge=1)
    """Training images (ImageNet: 1,281,167)."""
    val: int = Field(ge=1)
    """Validation images (ImageNet: 50,000)."""


class DataConfig(Config):
    """Which images, and how they are packed. A change packs them again; other shards need other caches."""

    source: Literal["digits", "folder", "imagenet", "cifar10", "cifar100", "webdataset"]
    """Kind of source. ``digits`` comes with scikit-learn, ``imagenet`` lies in IMAGENET_ROOT, the others in DATA_ROOT."""
    classes: int | None = Field(None, ge=2, le=MAX_CLASSES)
    """Expected number of classes (C); another number is refused. Null takes what there is."""
    expected: Expected | None = None
    """Expected counts of images; null takes what there is."""
    max_quarantined: int = Field(0, ge=0)
    """Unusable files that may be left out, each with its reason; with more of them nothing is packed."""
    md5: dict[str, str] = Field(default_factory=dict)
    """CIFAR only: file name to the published md5; a file with another one is refused."""
    shard_size: int = Field(1024, ge=2, le=1_000_000)
    """Samples in one tar (S). More of them make fewer and larger tars, and larger parts of a cache."""
    block: int = Field(256, ge=2, le=65_536)
    """Samples that are read, drawn and labelled together (b): even, and a divisor of ``shard_size``. Mixing partners come
    from one block; a larger block needs more memory."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the order of the training samples in the shards."""
    resize: int | None = Field(None, ge=16, le=65_535)
    """Shorter side in px to which images are scaled at packing, so that they decode faster; null keeps each file's bytes."""
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=2**31)
    """Most pixels of one image; a larger image is an unusable file."""
    orientation: Literal["stored", "upright"] = "stored"
    """``stored`` ignores a rotation noted in EXIF, as DeiT does; ``upright`` applies it when an image is decoded."""
    val_share: float | None = Field(None, gt=0, lt=1)
    """Share of each class's images that is held out for validation, where the source has no validation images of its own;
    null where it has."""

    @model_validator(mode="after")
    def _divides(self) -> "DataConfig":
        require_blocks(self.shard_size, self.block)
        if self.val_share is not None and self.source not in ("folder", "imagenet", "webdataset"):
            raise ValueError(f"val_share: source {self.source} has its own validation images; leave val_share out")
        return self

    @property
    def rule(self) -> Rule:
        """How the images are decoded."""
        return Rule(self.orientation, self.max_pixels)


def find_root(source: str, environment: Mapping[str, str]) -> Path:
    """The root from IMAGENET_ROOT (imagenet) or DATA_ROOT; the digits need none. Raises UsageError."""
    if source == "digits":
        return Path()
    variable = _variable(source)
    value = environment.get(variable, "")
    if not value:
        raise UsageError(
            f"{variable} is not set: data source {source!r} needs it, e.g. {variable}=/data/{source}; {_NO_IMAGES}"
        )
    return home_expanded(variable, value)


def _variable(source: str) -> str:
    return "IMAGENET_ROOT" if source == "imagenet" else "DATA_ROOT"


def expected_classes(config: DataConfig, environment: Mapping[str, str]) -> int | None:
    """C, if the configuration or the names of the training directories tell it; else None."""
    if config.classes is not None or config.source == "webdataset":
        return config.classes
    if config.source in ("folder", "imagenet"):
        if not environment.get(_variable(config.source)):
            return None
        root = find_root(config.source, environment)
        below = "train" if config.val_share is None else folders.whole_tree(root)
        return len(folders.class_names(root / below)) or None
    return 100 if config.source == "cifar100" else 10


def scan(config: DataConfig, root: Path) -> list[File]:
    """Lists the source's files in order. Raises UsageError or IntegrityError with every problem found."""
    if config.source == "digits":
        return [digits.scan()]
    problems = Problems()
    _check_root(root)
    share = config.val_share is not None
    match config.source:
        case "folder" | "imagenet":
            listed = folders.scan(root, problems, config.source == "imagenet", share)
            images = [file for file in listed if named_as_image(file.name)]  # not the label lists
            quarantined = [(file.path, reason) for file in images if (reason := quarantine_reason(file))]
            require_few_quarantined(quarantined, config.max_quarantined, problems)
        case "cifar10" | "cifar100":
            listed = cifar.scan(root, config.source, problems)
        case _:
            listed = webdataset_tars.scan(root, problems, share)
    problems.check(root)
    return listed


def read_splits(
    config: DataConfig, root: Path, listed: list[File], order: Order | None = None
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Class names in label order and the samples of ``train`` and ``val`` in the order of a listing, whose head says ``order``.

    Raises UsageError or IntegrityError with every problem found: class counts, double keys, tars, labels.
    """
    problems = Problems()
    _check_root(root)
    share = config.val_share is not None
    match config.source:
        case "digits":
            classes, splits = digits.read(listed, problems)
        case "folder" | "imagenet":
            classes, splits = folders.read(root, listed, problems, config.source == "imagenet", share)
        case "cifar10" | "cifar100":
            classes, splits = cifar.read(root, config.source, listed, config.md5, problems)
        case _:
            classes, splits = webdataset_tars.read(root, listed, problems)
    problems.check(root)
    if config.val_share is not None:
        whole = splits["train"]
        if order is None:
            splits = hold_out(whole, config.val_share, config.seed)
        else:  # a sample's split is kept
            splits = divide(whole, {file.path for file in listed[: order.train]})
    if config.classes is not None and len(classes) != config.classes:
        problems.usage(f"data.classes is {config.classes}, but the source has {len(classes)} classes")
    if len(classes) == 1:
        problems.usage(f"only one class, {classes[0]!r}; a classifier needs two")
    if len(classes) > MAX_CLASSES:
        problems.usage(f"{len(classes)} classes; hard labels are 16 bits wide, so {MAX_CLASSES:,} is the most")
    for name, split in splits.items():
        _check_keys(name, split.entries, problems)
        found = len(split.entries) + len(split.quarantined)
        if config.expected is not None and found != (wanted := getattr(config.expected, name)):
            problems.usage(f"{name}: data.expected.{name} is {wanted}, but the source has {found} files")
        if not split.entries:
            problems.usage(f"{name}: no images")
    note_stray_labels(classes, splits, problems)
    problems.check(root)
    return classes, splits


def require_few_quarantined(quarantined: list[tuple[str, str]], most: int, problems: Problems) -> None:
    """Adds every quarantined file as a problem if there are more than ``most`` (``data.max_quarantined``)."""
    if len(quarantined) > most:
        for path, reason in quarantined:
            problems.damage(f"{path!r}: {reason}")
        problems.usage(f"{len(quarantined)} unusable files, data.max_quarantined is {most}: mend, remove or allow them")


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
