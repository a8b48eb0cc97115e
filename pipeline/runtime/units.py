"""Numbers as people read them: a few digits and a unit of the right size."""

from collections.abc import Mapping
from typing import Any

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes: "0 B", "512 B", "66.1 kB", "1.5 GB"; a kB is 1,000 bytes."""
    value, unit = float(count), 0
    while abs(value) >= 999.5 and unit < len(_BYTES) - 1:
        value, unit = value / 1000, unit + 1
    return f"{_few(value)} {_BYTES[unit]}"


def duration(seconds: float) -> str:
    """A time: "3 ms", "57 s", "4 min 10 s", "2 h 5 min", "12 days 3 h"."""
    if seconds < 1:
        return f"{_few(1000 * seconds)} ms" if seconds else "0 s"
    if seconds < 59.5:
        return f"{_few(seconds)} s"
    for large, small, name, below in ((60, 1, "min", "s"), (3600, 60, "h", "min"), (86400, 3600, "days", "h")):
        whole, rest = divmod(round(seconds / small), large // small)
        if whole < (60 if large < 86400 else 1e18) and not (large == 3600 and whole >= 48):
            return f"{whole} {name}" + (f" {rest} {below}" if rest else "")
    raise AssertionError("a time has days")


def number(value: float) -> str:
    """Four digits, and no exponent for large ones: "1235", "0.8339", "1.25e-05"."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def readable(value: Any) -> Any:
    """Plain data for people: numbers of four digits, no key whose value is not known."""
    if isinstance(value, Mapping):
        return {key: readable(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [readable(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _few(value: float) -> str:
    """Three digits, without an exponent and without trailing zeros."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}".rstrip("0").rstrip(".") if "e" in text else text
