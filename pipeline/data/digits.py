"""scikit-learn's digits as a source: the demo's data, which need no download."""

import hashlib

import numpy as np

from pipeline.data.images import encode_png
from pipeline.data.listing import Entry, File, Problems, Split

_DIGITS = "scikit-learn load_digits"
_VAL = 360  # of 1,797, so 1,437 train


def load_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (1797, 8, 8) and labels int64 (1797,) of scikit-learn's digits (UCI, Alpaydin)."""
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    bunch = load_digits()
    return (bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target.astype(np.int64)


def scan() -> File:
    """The one built-in file."""
    pixels, labels = load_pixels()
    data = pixels.tobytes() + labels.astype("<i8").tobytes()
    return File(_DIGITS, len(data), hashlib.sha256(data).hexdigest())


def read(listed: list[File], problems: Problems) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes and samples, each image as PNG bytes."""
    if listed != [found := scan()]:
        problems.usage(f"the listing has {listed}, but the installed data are {found}; run: python -m stages.index")
    pixels, labels = load_pixels()
    held_out = _stratified(labels, _VAL)
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
