"""ImageFolder and ImageNet directory trees as a source.

``train/<class>/<image>`` and ``val/<class>/<image>``, or with ``data.val_share`` ``<class>/<image>`` alone; deeper
directories belong to their class. Classes are labelled in the sorted order of their names, as torchvision and timm do
(so "10" comes before "2"). ImageNet's classes are wnids, and its val directory may instead be flat
(``val/ILSVRC2012_val_00000001.JPEG``) beside one label list:

* ``val_labels.txt``: lines of image name and wnid;
* ``LOC_val_solution.csv``: Kaggle's list;
* ``ILSVRC2012_devkit_t12/data/``: ``ILSVRC2012_validation_ground_truth.txt`` and ``meta.mat``.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from pipeline.data.label_lists import Lookalikes, difference_of, lookalikes, read_lines, read_pairs
from pipeline.data.listing import (
    Entry,
    File,
    Problems,
    Split,
    changed,
    content_key,
    is_clutter,
    list_files,
    named_as_image,
    quarantine_reason,
    suffix,
    walk,
)
from pipeline.runtime.text import clipped, few_names

_DEVKIT = "ILSVRC2012_devkit_t12/data/"
_LABEL_LISTS = (
    ("val_labels.txt",),
    ("LOC_val_solution.csv",),
    (_DEVKIT + "ILSVRC2012_validation_ground_truth.txt", _DEVKIT + "meta.mat"),
)


def scan(root: Path, problems: Problems, imagenet: bool, share: bool) -> list[File]:
    """Every image of the tree in sorted order; adds what is wrong with the tree to ``problems``. ``share``: validation images
    will be a share of all, so there is no val/, and train/ may be the root itself."""
    if share:
        return _scan_whole(root, problems, imagenet)
    listed: list[File] = []
    classes: dict[str, set[str]] = {}
    for split in ("train", "val"):
        if not (root / split).is_dir():
            hint = "; or set data.val_share to hold out a share of all images" if split == "val" else ""
            problems.usage(f"{split}/ is missing: expected {split}/<class>/<image>{hint}{_classes_in(root, split)}")
            continue
        found = list(walk(root, split, problems))
        directories = class_names(root / split)
        if imagenet and split == "val" and not directories:
            listed += _label_files(root, problems)
        else:
            classes[split] = directories
            _check_classes(f"{split}/", directories, found, imagenet, problems)
        listed += found
    if len(classes) == 2:
        alike = lookalikes(classes["train"])
        for name in sorted(classes["val"] - classes["train"]):
            problems.usage(f"{'val/' + name!r}: {_no_class(name, alike)}")
    return listed


def _scan_whole(root: Path, problems: Problems, imagenet: bool) -> list[File]:
    below = whole_tree(root)
    if (root / "val").is_dir():
        problems.usage("val/ is there and data.val_share is set as well; remove val/, or set data.val_share to null")
    found = list(walk(root, below.rstrip("/"), problems))
    _check_classes(below, class_names(root / below), found, imagenet, problems)
    return found


def whole_tree(root: Path) -> str:
    """Where the classes are if there is no val/: "train/", or "" where they are in the root itself."""
    return "train/" if (root / "train").is_dir() else ""


def _classes_in(root: Path, split: str) -> str:
    """A hint if the root itself seems to hold the class directories."""
    names = class_names(root) - {"train", "val"}
    if split == "val" or (root / "val").is_dir() or not names:
        return ""
    return f"; where {few_names(sorted(names), 3)} in it are classes, set data.val_share, e.g. 0.1, to split them"


def _check_classes(below: str, directories: set[str], found: list[File], imagenet: bool, problems: Problems) -> None:
    usable = [file.path.removeprefix(below) for file in found if quarantine_reason(file) is None]
    empty = directories - {path.partition("/")[0] for path in usable if "/" in path}
    for name in sorted(empty) if below != "val/" else ():  # a class without validation images is only said
        problems.usage(f"{below + name!r}: class without images; add some or remove the directory")
    forms: dict[str, str] = {}
    for name in sorted(directories):
        if imagenet and not re.fullmatch(r"n\d{8}", name):
            problems.usage(f"{below + name!r}: not a wnid (n and 8 digits), which ImageNet's classes are")
        if (other := forms.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            twins = f"{other!a} and {name!a}"
            problems.usage(
                f"{below + name!r}: one name in two Unicode forms, {twins}; move all images into one of them"
            )
    for path in usable:
        if "/" not in path:
            problems.usage(f"{below + path!r}: an image outside any class directory")
    if not directories:
        problems.usage(f"{below or 'the root'} has no class directories")


def _no_class(name: str, alike: Lookalikes) -> str:
    likely = difference_of(name, alike)
    return f"there is no class {name!r} in train/" + (f"; {likely}; rename one of them" if likely else "")


def class_names(path: Path) -> set[str]:
    """The class directories in ``path``; none where it can't be read, which ``scan`` reports."""
    try:
        return {child.name for child in path.iterdir() if child.is_dir() and not is_clutter(child.name)}
    except OSError:
        return set()


def read(
    root: Path, listed: list[File], problems: Problems, imagenet: bool, share: bool
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes and samples from the listing; the only file that is read is a flat val's label list. With ``share`` all samples
    are in ``train``."""
    splits = {"train": Split([]), "val": Split([])}
    images: dict[str, list[File]] = {"train": [], "val": []}
    below = {"train": whole_tree(root) if share else "train/", "val": "val/"}
    lists = []
    # A file's directory tells its split; a listing of an earlier version may hold files that are no images.
    for file in listed:
        split = "train" if share else file.path.split("/", 1)[0]
        if split not in splits:
            lists.append(file)
        elif not named_as_image(file.name):
            continue
        elif (reason := quarantine_reason(file)) is not None:
            splits[split].quarantined.append((file.path, reason))
        else:
            images[split].append(file)
    labelled = _read_label_list(root, lists, problems)
    if labelled is None:
        return (), splits
    stems = {split: [file.path.removeprefix(below[split]) for file in found] for split, found in images.items()}
    classes = tuple(sorted({path.split("/")[0] for path in stems["train"] if "/" in path}))
    labels, alike = {name: label for label, name in enumerate(classes)}, lookalikes(classes)
    flat = imagenet and not share and all("/" not in path for path in stems["val"])
    for split, found in images.items():
        entries = splits[split].entries
        for file, path in zip(found, stems[split]):
            name, stem = path.partition("/")[0], path.rpartition(".")[0]
            if flat and split == "val":
                if stem not in labelled:
                    problems.usage(f"{file.path!r}: no label in the label list")
                    continue
                name = labelled[stem]
            if name not in labels:
                problems.usage(f"{file.path!r}: {_no_class(name, alike)}")
                continue
            where, kind = f"{root}/{file.path}", suffix(file.path)
            entry = Entry(file.path, content_key(stem), labels[name], kind, file.size, where, stamp=file.stamp)
            entries.append(entry)
        entries[:] = _told_apart(entries)
    return classes, splits


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """Adds the suffix to the keys of samples that differ in nothing else, such as ``001.jpg`` and ``001.png`` of one class."""
    counts = Counter(entry.key for entry in entries)
    return [
        replace(entry, key=f"{entry.key}~{content_key(Path(entry.path).suffix[1:])}")
        if counts[entry.key] > 1
        else entry
        for entry in entries
    ]


def _label_files(root: Path, problems: Problems) -> list[File]:
    for names in _LABEL_LISTS:
        if all((root / name).is_file() for name in names):
            return list_files(root, names, problems)
    options = "; ".join(" and ".join(names) for names in _LABEL_LISTS)
    problems.usage(f"val/ has no class directories, so a label list must stand in {root}: {options}")
    return []


def _read_label_list(root: Path, lists: list[File], problems: Problems) -> dict[str, str] | None:
    """Image stem to wnid, from whichever label list was listed; empty without one, None if it is damaged."""
    if not lists:
        return {}
    first = lists[0]
    before = problems.count
    lines = read_lines(root, first, problems)
    if lines is None:
        return None
    found: dict[str, str] = {}
    if first.path == "val_labels.txt":
        found = {Path(name).stem: wnid for name, wnid in read_pairs(first, lines, problems).items()}
    elif first.path == "LOC_val_solution.csv":  # ILSVRC2012_val_00048981,n03995372 85 1 499 272
        rows = [(number, " ".join(re.split(r"[,\s\"]+", line.strip('"'))[:2])) for number, line in lines[1:]]
        found = read_pairs(first, rows, problems)
    elif (wnids := _devkit_wnids(root, lists[1], problems)) is not None:
        for number, line in lines:
            if not re.fullmatch("[0-9]{1,9}", line) or int(line) not in wnids:
                shown = clipped(repr(line), 80)
                problems.damage(
                    f"{first.path!r}: not a label list: line {number}: expected a class's ILSVRC2012_ID, found {shown}"
                )
                return None
            found[f"ILSVRC2012_val_{number:08d}"] = wnids[int(line)]
    return found if problems.count == before else None


def _devkit_wnids(root: Path, file: File, problems: Problems) -> dict[int, str] | None:
    """ILSVRC2012_ID to wnid of the 1,000 leaf synsets in the devkit's ``meta.mat``; None if it is damaged."""
    from scipy.io import loadmat

    if reason := changed(root, file):
        problems.damage(f"{file.path!r}: {reason}")
        return None
    try:
        synsets = loadmat(root / file.path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if row["num_children"] == 0}
    except Exception as error:  # whatever scipy raises
        problems.damage(f"{file.name!r}: not the devkit's meta.mat: {type(error).__name__}: {error}; fetch it again")
        return None
