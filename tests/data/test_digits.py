"""The digits that scikit-learn brings along: split in proportion, always alike."""

from pathlib import Path

import numpy as np

from pipeline.data.sources import DataConfig, read_splits, scan

DIGITS = DataConfig(source="digits")


def test_the_digits_are_split_in_proportion_and_always_alike() -> None:
    listed = scan(DIGITS, Path())
    assert listed[0].stamp == "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
    classes, splits = read_splits(DIGITS, Path(), listed)
    train, val = splits["train"].entries, splits["val"].entries
    assert (len(train), len(val), classes) == (1437, 360, tuple("0123456789"))
    assert not {entry.key for entry in train} & {entry.key for entry in val}
    counts = np.bincount([entry.label for entry in val])
    assert counts.tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]  # largest remainders
    assert [entry.key for entry in val[:3]] == ["0/0000", "9/0009", "3/0013"]
