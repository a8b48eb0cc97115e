"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), the python version: the unpacked directory or the .tar.gz, read in place.

The batches are pickles, which can run code: they pass an unpickler that knows numpy's array and nothing else, and,
where the configuration gives it, the md5 of the published file (layer L1).
"""

import codecs
import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from pipeline.images import encode_png
from pipeline.listing import Entry, File, Problems, Split

_LARGEST = 1 << 28  # bytes of one batch; the largest, CIFAR-100's train, has 155 MB
_ALLOWED = {
    "numpy.core.multiarray._reconstruct": multiarray._reconstruct,
    "numpy._core.multiarray._reconstruct": multiarray._reconstruct,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": codecs.encode,
}


@dataclass(frozen=True)
class _Layout:
    directory: str
    archive: str
    batches: dict[str, tuple[str, ...]]  # per split
    meta: str
    labels: bytes  # field of a batch
    names: bytes  # field of meta


_LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "val": ("test_batch",)},
        "batches.meta",
        b"labels",
        b"label_names",
    ),
    "cifar100": _Layout(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        {"train": ("train",), "val": ("test",)},
        "meta",
        b"fine_labels",
        b"fine_label_names",
    ),
}


def scan(root: Path, source: str, problems: Problems) -> list[File]:
    """The batch files under ``root/<directory>``, or the one archive in ``root``."""
    layout = _LAYOUTS[source]
    if (root / layout.directory).is_dir():
        names = [f"{layout.directory}/{name}" for name in _names(layout)]
    elif (root / layout.archive).is_file():
        names = [layout.archive]
    else:
        problems.usage(f"neither {layout.directory}/ nor {layout.archive} is here")
        return []
    listed = []
    for name in names:
        try:
            status = (root / name).stat()
            (root / name).open("rb").close()
        except OSError as error:
            problems.damage(f"{name!r}: can't be read: {error.strerror}")
            continue
        listed.append(File(name, status.st_size, str(status.st_mtime_ns)))
    return listed


def read(
    root: Path, source: str, listed: list[File], md5: Mapping[str, str], problems: Problems
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes and samples, each image as PNG bytes. A sample's key is its batch and row in the published file."""
    layout = _LAYOUTS[source]
    splits = {split: Split([]) for split in layout.batches}
    contents = _contents(root, layout, listed, problems)
    for name in _names(layout):
        if name not in contents:
            problems.damage(f"{name!r}: missing; fetch it again, or list what is there now: python -m stages.index")
        elif name in md5 and (found := hashlib.md5(contents[name]).hexdigest()) != md5[name]:
            problems.damage(f"{name!r}: md5 is {found}, data.md5 says {md5[name]}; fetch the archive again")
            contents.pop(name)
    if layout.meta not in contents:
        return (), splits
    try:
        classes = tuple(str(name, "utf-8") for name in _unpickle(contents[layout.meta])[layout.names])
    except Exception as error:  # a pickle is a program: it can fail in any way
        problems.damage(f"{layout.meta!r}: not a CIFAR meta file: {type(error).__name__}: {error}")
        return (), splits
    for split, names in layout.batches.items():
        for name in names:
            if name not in contents:
                continue
            try:
                pixels, labels = _batch(contents[name], layout, len(classes))
            except Exception as error:
                problems.damage(f"{name!r}: not a CIFAR batch: {type(error).__name__}: {error}")
                continue
            for row, label in enumerate(labels):
                png = encode_png(pixels[row])
                entry = Entry(f"{name}[{row}]", f"{name}/{row:05d}", label, "png", len(png), data=png)
                splits[split].entries.append(entry)
    return classes, splits


def _names(layout: _Layout) -> list[str]:
    return [layout.meta, *layout.batches["train"], *layout.batches["val"]]


def _contents(root: Path, layout: _Layout, listed: list[File], problems: Problems) -> dict[str, bytes]:
    """The bytes of meta and batches by name; the archive is streamed, never extracted."""
    wanted = {f"{layout.directory}/{name}": name for name in _names(layout)}
    if [file.path for file in listed] != [layout.archive]:
        there = [file.path for file in listed if file.path in wanted and (root / file.path).is_file()]
        return {wanted[path]: (root / path).read_bytes() for path in there}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(root / layout.archive, "r|gz") as archive:
            for member in archive:
                if member.name in wanted and member.isreg() and member.size <= _LARGEST:
                    stream = archive.extractfile(member)
                    found[wanted[member.name]] = stream.read() if stream else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        problems.damage(f"{layout.archive!r}: gone or damaged: {error}; fetch it again")
    return found


def _batch(content: bytes, layout: _Layout, classes: int) -> tuple[np.ndarray, list[int]]:
    """Pixels uint8 (n, 32, 32, 3) and n labels. Raises ValueError on other shapes or labels."""
    fields = _unpickle(content)
    pixels, labels = fields[b"data"], [int(label) for label in fields[layout.labels]]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise ValueError(f"expected uint8 ({len(labels)}, 3072)")
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise ValueError(f"a label is outside 0..{classes - 1}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


class _OnlyArrays(pickle.Unpickler):
    """Builds containers and numpy arrays; every other name is refused, so that no pickle runs code."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs: do not trust it")
        return _ALLOWED[f"{module}.{name}"]


def _unpickle(content: bytes) -> dict[bytes, Any]:
    fields = _OnlyArrays(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(fields, dict):
        raise ValueError(f"expected a dictionary, found {type(fields).__name__}")
    return fields
