"""For the samples of every source: hold out a share for validation, check that a model can learn all labels."""

from collections import Counter, defaultdict
from collections.abc import Container

from pipeline.data.listing import Entry, Problems, Split, keyed_rank
from pipeline.runtime.text import few_names


def hold_out(whole: Split, share: float, seed: int) -> dict[str, Split]:
    """``train`` and ``val``: about ``share`` of each class's samples, at least one but never all, are validation; a class of
    one sample has none. A keyed hash of their keys chooses them, so the choice depends on no order and no machine."""
    chosen: set[str] = set()
    groups: dict[int, list[Entry]] = defaultdict(list)
    for entry in whole.entries:
        groups[entry.label].append(entry)
    for group in groups.values():
        ranked = sorted((entry.key for entry in group), key=lambda key: keyed_rank(key, seed, b"validation"))
        chosen |= set(ranked[: held_out(len(group), share)])
    train = [entry for entry in whole.entries if entry.key not in chosen]
    val = [entry for entry in whole.entries if entry.key in chosen]
    return {"train": Split(train, whole.quarantined), "val": Split(val)}


def divide(whole: Split, train: Container[str]) -> dict[str, Split]:
    """The samples whose paths are in ``train``, and as ``val`` the others."""
    inside, outside = ([of for of in whole.entries if (of.path in train) == there] for there in (True, False))
    return {"train": Split(inside, whole.quarantined), "val": Split(outside)}


def held_out(count: int, share: float) -> int:
    """How many of a class's ``count`` samples are validation."""
    return min(count - 1, max(1, round(share * count)))


def note_stray_labels(classes: tuple[str, ...], splits: dict[str, Split], problems: Problems) -> None:
    """Reports labels without a training image as problems, and classes without validation images as a warning."""
    train = Counter(entry.label for entry in splits["train"].entries)
    val = Counter(entry.label for entry in splits["val"].entries)
    if twice := sorted(name for name, count in Counter(classes).items() if count > 1):
        problems.usage(f"two labels of one class name: {few_names(twice)}; rename one")
    missing = [label for label in range(len(classes)) if not train[label]]
    if missing and train:
        what = f"label{'s' if len(missing) > 1 else ''} without a training image: {_ranges(missing)}"
        reasons = [*_reasons(missing, classes, train, splits)]
        problems.usage(f"{what} of 0..{len(classes) - 1}; {'; '.join(reasons)}")
    unseen = [name for label, name in enumerate(classes) if train[label] and not val[label]]
    if unseen and val:
        count = f"{len(unseen)} of {len(classes)} classes ({few_names(unseen)})"
        problems.warn(f"val has no images of {count}: nothing measures them")


def _reasons(missing: list[int], classes: tuple[str, ...], train: Counter, splits: dict[str, Split]) -> list[str]:
    """The likely causes of labels without training images, each with what to do."""
    found, absent = [], set(missing)
    only_val = {entry.label: entry for entry in reversed(splits["val"].entries) if entry.label in absent}
    largest = max(train)
    below = {label for label in missing if label < largest}
    rest = absent - only_val.keys()
    if rest == {0}:
        found.append("labels seem to count from 1: count them from 0")
        rest = set()
    elif 2 * len(below) > largest:
        rest -= below
        first = next(entry for entry in splits["train"].entries if entry.label == largest)
        count = f"{train[largest]} image{'s' if train[largest] > 1 else ''}"
        found.append(f"a stray label? label {largest} is that of {count}, first {first.path!r}: correct it")
    if only_val:
        names = few_names([entry.path for _, entry in sorted(only_val.items())], 3)
        found.append(f"val has images of {_ranges(sorted(only_val))} ({names}): correct or remove them")
    if rest:
        named = few_names([classes[label] for label in sorted(rest)], 5)
        found.append(f"add training images of {named}, or number the labels without gaps")
    return found


def _ranges(numbers: list[int], most: int = 12) -> str:
    """Sorted numbers as "0, 3-7, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:most]]
    return ", ".join(shown) + (f" and {len(runs) - most} more ranges" if len(runs) > most else "")
