"""Test sets besides the validation split: other images, other labels of the same images, another evaluation crop.

The images of the set NAME lie in TEST_ROOT/NAME: of source ``folder`` as <class>/<image> (some classes may be absent;
numbers 0 to C-1, as in ImageNet-V2, are labels where no class is a number), of other sources as for packing, whose
validation split is taken.
"""

import json
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.data.listing import Entry, File, Problems, Split, content_key, quarantine_reason, suffix, walk
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, read_splits, require_few_quarantined, scan
from pipeline.runtime.config import Config
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.text import few

VAL = "val"  # the validation split, which is always a test set
WITHOUT_REAL = ("digits", "cifar10", "cifar100")  # sources whose images are never ImageNet's


class SetConfig(Config):
    """One more test set; the validation split is always scored. Images of a set of its own lie in TEST_ROOT/NAME. A change
    scores every teacher and student again."""

    source: Literal["val", "folder", "cifar10", "cifar100", "webdataset"] = "val"
    """``val`` takes the images of the validation split, ``folder`` those in ``<class>/<image>`` (perhaps not of every
    class; a class is named by its name or its number), the others the validation images of such a source."""
    labels: Literal["own", "real"] = "own"
    """``own`` labels, or ``real``: those of ImageNet-ReaL (several per image, or none), which timm contains; only for
    ``source: val``."""
    crop_fraction: float | None = Field(default=None, ge=0.1, le=1)
    """Before the center crop the shorter side is scaled to size / ``crop_fraction``. Null: as in the student's recipe
    (DeiT: 0.875, timm's own evaluation: 0.9)."""
    interpolation: Literal["bicubic", "bilinear"] | None = None
    """Filter of that scaling; null: as in the student's recipe."""
    max_quarantined: int = Field(default=0, ge=0)
    """Unusable files that may be left out, each with its reason; with more of them nothing is packed."""

    @model_validator(mode="after")
    def _consistent(self) -> "SetConfig":
        if self.labels == "real" and self.source != VAL:
            raise ValueError(
                f"labels: the real labels are of ImageNet's validation split, found source {self.source!r}"
            )
        return self

    @property
    def same_views(self) -> bool:
        """Whether it asks for nothing but what every student answers anyway."""
        return self.source == VAL and self.crop_fraction is None and self.interpolation is None


def find_root(name: str, environment: Mapping[str, str]) -> Path:
    """TEST_ROOT/NAME. Raises UsageError where there is none."""
    if not (value := environment.get("TEST_ROOT", "")):
        raise UsageError(f"TEST_ROOT is not set: test set {name!r} needs it, e.g. TEST_ROOT=/data/tests")
    root = Path(value) / name
    if not root.is_dir():
        raise UsageError(
            f"{root}: the directory of test set {name!r} is missing; put its images there, or set TEST_ROOT"
        )
    return root


def list_set(config: SetConfig, root: Path) -> list[File]:
    """The files of a set with images of its own. Raises UsageError or IntegrityError with every problem."""
    if config.source != "folder":
        return scan(_data(config), root)
    problems = Problems()
    listed = list(walk(root, ".", problems))
    problems.check(root)
    return listed


def read_set(config: SetConfig, root: Path, listed: list[File], classes: tuple[str, ...]) -> Split:
    """The samples, labelled by the place of their class in ``classes``. Raises UsageError or IntegrityError with every
    problem: classes that the students do not know, files that are no images."""
    problems = Problems()
    if config.source != "folder":
        found, splits = read_splits(_data(config), root, listed)
        if found != classes:
            problems.usage(
                f"its classes are {few(found, 5)}, the students' are {few(classes, 5)}; they must be the same"
            )
        problems.check(root)
        return splits["val"]
    split, counts = Split([]), Counter(file.path.split("/")[1] for file in listed if file.path.count("/") > 1)
    labels = _labels(counts, classes, problems)
    for file in listed:
        path = file.path.removeprefix("./")
        name, inside, _ = path.partition("/")
        if (reason := quarantine_reason(file)) is not None:
            split.quarantined.append((path, reason))
        elif not inside:
            problems.usage(f"{path!r}: an image outside any class directory")
        elif name in labels:
            key = content_key(path.removesuffix(Path(path).suffix))
            split.entries.append(Entry(path, key, labels[name], suffix(path), file.size, str(root / path)))
    require_few_quarantined(split.quarantined, config.max_quarantined, problems)
    problems.check(root)
    return split


def _labels(counts: Mapping[str, int], classes: tuple[str, ...], problems: Problems) -> dict[str, int]:
    """The label of each folder, of which ``counts`` has the number of images: by name where all are names of classes, by place
    where none is and all are numbers below C, unless the classes are numbers too. A problem for each other folder."""
    labels = {name: label for label, name in enumerate(classes)}
    unknown = sorted(counts.keys() - labels.keys())
    if not unknown:
        return labels
    numbers = all(name.isascii() and name.isdecimal() and int(name) < len(classes) for name in counts)
    places = {name: int(name) for name in counts} if numbers and not any(name.isdecimal() for name in classes) else {}
    if places and len(set(places.values())) == len(places):
        say(f"test set: folders are places in the list of classes: {unknown[0]!r} is {classes[places[unknown[0]]]!r}")
        return places
    for name in unknown:
        images = f"{counts[name]} image{'s' if counts[name] > 1 else ''}"
        problems.usage(
            f"{images}: no student knows a class {name!r}; their classes are {few(classes, 5)}; name each folder as "
            f"its class (numbers are places only where no class is a number and each number stands once)"
        )
    return labels


def packing(config: SetConfig, val: Shards) -> DataConfig:
    """How a set with images of its own is packed: in shards and blocks as the validation split's."""
    return _data(config, source="folder", shard_size=val.shard_size, block=val.block_size)


def _data(config: SetConfig, **fields: object) -> DataConfig:
    return DataConfig.model_validate(config.model_dump(include={"source", "max_quarantined"}) | fields)


def no_real_labels(found: str) -> str:
    """Why ``found`` has no real labels, and what to do."""
    return (
        f"{found} is not of ImageNet's validation split, for which alone there are real labels; remove test sets with "
        f"labels: real, or set labels: own"
    )


def real_labels(split: Shards) -> list[frozenset[int]]:
    """ImageNet-ReaL's labels (Beyer et al. 2020) of each sample of ImageNet's validation split, in order; some have none.

    Raises UsageError for a split of other than 1,000 classes, since the labels number ImageNet's, and for samples that are not
    ``ILSVRC2012_val_00000001`` and so on.
    """
    if len(split.classes) != 1000:
        raise UsageError(no_real_labels(f"{split.root}: a split of {len(split.classes)} classes"))
    package = find_spec("timm")
    assert package is not None and package.origin is not None, "timm is a dependency"
    known = json.loads((Path(package.origin).with_name("data") / "_info" / "imagenet_real_labels.json").read_text())
    found = []
    for block in split.blocks:
        for key in split.keys(block):
            stem, number = key.rpartition("/")[2].rpartition("_")[::2]
            if stem != "ILSVRC2012_val" or not number.isdecimal() or not 0 < int(number) <= len(known):
                raise UsageError(no_real_labels(f"{split.root}: sample {key!r}"))
            found.append(frozenset(known[int(number) - 1]))
    return found
