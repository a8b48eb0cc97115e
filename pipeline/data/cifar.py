"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), the python version: the unpacked directory or the .tar.gz, read in place.

The batches are pickles, which can run code: the unpickler here builds numpy arrays and nothing else. Where the configuration
gives a published file's md5, it is compared, too.
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

from pipeline.data.images import encode_png
from pipeline.data.listing import Entry, File, Problems, Split, changed, list_files

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
    meta: str
    train: tuple[str, ...]
    val: str
    labels: bytes  # field of a batch
    names: bytes  # field of meta

    @property
    def files(self) -> tuple[str, ...]:
        return (self.meta, *self.train, self.val)


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-py", "cifar-10-python.tar.gz", "batches.meta", _TEN, "test_batch", b"labels", b"label_names"
    ),
    "cifar100": _Layout(
        "cifar-100-python", "cifar-100-python.tar.gz", "meta", ("train",), "test", b"fine_labels", b"fine_label_names"
    ),
}


def scan(root: Path, source: str, problems: Problems) -> list[File]:
    """The batch files under ``root/<directory>``, or the one archive in ``root``."""
    layout = _LAYOUTS[source]
    if (root / layout.directory).is_dir():
        return list_files(root, [f"{layout.directory}/{name}" for name in layout.files], problems)
    if (root / layout.archive).is_file():
        return list_files(root, [layout.archive], problems)
    problems.usage(f"neither {layout.directory}/ nor {layout.archive} is here")
    return []


def read(
    root: Path, source: str, listed: list[File], md5: Mapping[str, str], problems: Problems
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes and samples, each image as PNG bytes. A sample's key is its batch and row in the published file."""
    layout = _LAYOUTS[source]
    classes: tuple[str, ...] = ()
    splits = {"train": Split([]), "val": Split([])}
    contents = _contents(root, layout, listed, problems)
    for name in layout.files:  # meta first
        if name not in contents:
            problems.damage(f"{name!r}: missing; fetch it again, or list what is there now: python -m stages.index")
            continue
        if name in md5 and (found := hashlib.md5(contents[name]).hexdigest()) != md5[name]:
            problems.damage(f"{name!r}: md5 is {found}, data.md5 says {md5[name]}; fetch the archive again")
            continue
        try:
            if name == layout.meta:
                classes = tuple(str(name, "utf-8") for name in _unpickle(contents[name])[layout.names])
            elif classes:  # else meta is the problem
                entries = _batch(name, contents[name], layout, len(classes))
                splits["val" if name == layout.val else "train"].entries.extend(entries)
        except Exception as error:  # a pickle is a program: it can fail in any way
            kind = "meta file" if name == layout.meta else "batch"
            problems.damage(f"{name!r}: not a CIFAR {kind}: {type(error).__name__}: {error}")
    return classes, splits


def _contents(root: Path, layout: _Layout, listed: list[File], problems: Problems) -> dict[str, bytes]:
    """The bytes of meta and batches by name; the archive is streamed, never extracted."""
    wanted = {f"{layout.directory}/{name}": name for name in layout.files}
    if [file.path for file in listed] != [layout.archive]:
        there = [file for file in listed if file.path in wanted and (root / file.path).is_file()]
        for file in there:
            if reason := changed(root, file):
                problems.damage(f"{file.path!r}: {reason}")
        return {wanted[file.path]: (root / file.path).read_bytes() for file in there}
    if (root / layout.archive).is_file() and (reason := changed(root, listed[0])):
        problems.damage(f"{layout.archive!r}: {reason}")
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


def _batch(name: str, content: bytes, layout: _Layout, classes: int) -> list[Entry]:
    """A batch's samples, uint8 (n, 3072) in the order channel, row, column. Raises ValueError on other shapes or labels."""
    fields = _unpickle(content)
    pixels, labels = fields[b"data"], [int(label) for label in fields[layout.labels]]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise ValueError(f"expected uint8 ({len(labels)}, 3072)")
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise ValueError(f"a label is outside 0..{classes - 1}")
    images = [encode_png(image) for image in pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)]
    return [
        Entry(f"{name}[{row}]", f"{name}/{row:05d}", label, "png", len(image), data=image)
        for row, (label, image) in enumerate(zip(labels, images))
    ]


class _OnlyArrays(pickle.Unpickler):
    """Builds containers and numpy arrays, and refuses every other name, so that no pickle runs code."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs: do not trust it")
        return _ALLOWED[f"{module}.{name}"]


def _unpickle(content: bytes) -> dict[bytes, Any]:
    fields = _OnlyArrays(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(fields, dict):
        raise ValueError(f"expected a dictionary, found {type(fields).__name__}")
    return fields
