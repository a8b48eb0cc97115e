"""ImageFolder and ImageNet directory trees as a source.

``train/<class>/<image>`` and ``val/<class>/<image>``; deeper directories belong to their class. Classes are labelled in
the sorted order of their names, as torchvision and timm do (so "10" comes before "2"). ImageNet's classes are wnids,
and its val directory may instead be flat (``val/ILSVRC2012_val_00000001.JPEG``) beside one label list:

* ``val_labels.txt``: lines of image name and wnid;
* ``LOC_val_solution.csv``: Kaggle's list;
* ``ILSVRC2012_devkit_t12/data/``: ``ILSVRC2012_validation_ground_truth.txt`` and ``meta.mat``.
"""

import re
from pathlib import Path

from pipeline.data.listing import HIDDEN, Entry, File, Problems, Split, content_key, list_files, rejection, suffix, walk

_DEVKIT = "ILSVRC2012_devkit_t12/data/"
_LABEL_LISTS = (
    ("val_labels.txt",),
    ("LOC_val_solution.csv",),
    (_DEVKIT + "ILSVRC2012_validation_ground_truth.txt", _DEVKIT + "meta.mat"),
)


def scan(root: Path, problems: Problems, imagenet: bool) -> list[File]:
    """Every file of the tree in sorted order; adds whatever is wrong with the tree to ``problems``."""
    listed: list[File] = []
    classes: dict[str, set[str]] = {}
    for split in ("train", "val"):
        if not (root / split).is_dir():
            problems.usage(f"{split}/ is missing: expected {split}/<class>/<image>")
            continue
        found = list(walk(root, split, problems))
        directories = class_names(root / split)
        if imagenet and split == "val" and not directories:
            listed += _label_files(root, problems)
        else:
            classes[split] = directories
            _check_classes(split, directories, found, imagenet, problems)
        listed += found
    if len(classes) == 2:
        for here, there in (("val", "train"), ("train", "val")):
            for name in sorted(classes[here] - classes[there]):
                problems.usage(f"'{here}/{name}': there is no class {name!r} in {there}/")
    return listed


def _check_classes(split: str, directories: set[str], found: list[File], imagenet: bool, problems: Problems) -> None:
    usable = [file.path.split("/") for file in found if rejection(file) is None]
    for name in sorted(directories - {parts[1] for parts in usable if len(parts) > 2}):
        problems.usage(f"'{split}/{name}': class without images; add some or remove the directory")
    for name in sorted(directories):
        if imagenet and not re.fullmatch(r"n\d{8}", name):
            problems.usage(f"'{split}/{name}': not a wnid (n and 8 digits), which ImageNet's classes are")
    for parts in usable:
        if len(parts) == 2:
            problems.usage(f"'{split}/{parts[1]}': an image outside any class directory")
    if not directories:
        problems.usage(f"{split}/ has no class directories")


def class_names(path: Path) -> set[str]:
    """The class directories in ``path``; none where it can't be read, which ``scan`` reports."""
    try:
        return {child.name for child in path.iterdir() if child.is_dir() and child.name[0] not in HIDDEN}
    except OSError:
        return set()


def read(
    root: Path, listed: list[File], problems: Problems, imagenet: bool
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes and samples from the listing; of the files themselves only a flat val's label list is read."""
    splits = {"train": Split([]), "val": Split([])}
    images: dict[str, list[File]] = {"train": [], "val": []}
    lists = []
    for file in listed:
        split = file.path.split("/", 1)[0]
        if split not in splits:
            lists.append(file)
        elif (reason := rejection(file)) is not None:
            splits[split].rejected.append((file.path, reason))
        else:
            images[split].append(file)
    wnids = _read_label_list(root, lists, problems)
    if wnids is None:
        return (), splits
    classes = tuple(sorted({file.path.split("/")[1] for file in images["train"] if file.path.count("/") > 1}))
    labels = {name: label for label, name in enumerate(classes)}
    flat = imagenet and all(file.path.count("/") == 1 for file in images["val"])
    for split, found in images.items():
        for file in found:
            stem = file.path.removeprefix(f"{split}/").removesuffix(Path(file.path).suffix)
            name = file.path.split("/")[1]
            if flat and split == "val":
                if stem not in wnids:
                    problems.usage(f"{file.path!r}: no label in the label list")
                    continue
                name = wnids[stem]
            if name not in labels:
                problems.usage(f"{file.path!r}: there is no class {name!r} in train/")
                continue
            key, kind = content_key(stem), suffix(file.path)
            splits[split].entries.append(Entry(file.path, key, labels[name], kind, file.size, str(root / file.path)))
    return classes, splits


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
    first = lists[0].path
    try:
        lines = (root / first).read_text(encoding="utf-8").splitlines()
        if first == "val_labels.txt":
            return {Path(name).stem: wnid for name, wnid in (line.split() for line in lines if line.strip())}
        if first == "LOC_val_solution.csv":  # ILSVRC2012_val_00048981,n03995372 85 1 499 272
            rows = [line.split(",") for line in lines[1:] if line.strip()]
            return {name: boxes.split()[0] for name, boxes in rows}
        wnids = _devkit_wnids(root / lists[1].path, problems)
        if wnids is None:
            return None
        return {f"ILSVRC2012_val_{row:08d}": wnids[int(line)] for row, line in enumerate(lines, start=1)}
    except (OSError, ValueError, KeyError, IndexError) as error:
        problems.damage(f"{first!r}: not a label list: {type(error).__name__}: {error}; fetch it again")
        return None


def _devkit_wnids(path: Path, problems: Problems) -> dict[int, str] | None:
    """ILSVRC2012_ID to wnid of the 1,000 leaf synsets in the devkit's ``meta.mat``; None if it is damaged."""
    from scipy.io import loadmat  # type: ignore[import-untyped]  # comes with scikit-learn

    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if row["num_children"] == 0}
    except Exception as error:  # whatever scipy raises
        problems.damage(f"{path.name!r}: not the devkit's meta.mat: {type(error).__name__}: {error}; fetch it again")
        return None
