"""Codec topK: a row of C logits in a few dozen bytes, good at every temperature.

The 7/4 K largest logits of a row are named (the K largest, and 3/4 K that stand for the upper tail; ties go to the
smaller class); one value stands for all others. With n = min(7 K // 4, C) a packed row is, most significant bit first:

| part | bits | content |
|---|---|---|
| classes | n + (C - 1 >> l) | ascending, Elias-Fano: bit (class >> l) + i is set for the i-th class, i from 0 |
| | n l | the l low bits of the classes, in l planes of n bits |
| levels | 6 n | of class after class, in 6 planes of n bits: 0 is the hard label's alone |
| padding | 0 to 7 | zeros up to a whole byte |
| scale | 48 | float16, little-endian: the largest logit, the step, the rest's distance below the largest |

A named logit is ``top - step * level ** 2``: fine where the probabilities are large, coarse where they are small. The
others are ``top - rest``, of the mass that they have at temperature 1.44: the KL at 1 is within 3 % of what the mass at
1 gives, and that at 3 within 3 % of what the mass at 3 gives. ``bench/measure/codecs.py`` measures it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.runtime.errors import IntegrityError

VERSION = 1  # raised when the bytes of the same logits, or what they unpack to, change
LEVEL_BITS = 6
_LEVELS = 2**LEVEL_BITS - 1
_SCALE = 6  # bytes
_CHUNK = 131_072  # logits at a time, so that a float64 copy of them stays in the processor's cache


@dataclass(frozen=True)
class Row:
    """The places in a packed row: n named of C classes, l low bits of each, ``unary`` bits of the high parts."""

    classes: int
    named: int
    low: int
    unary: int

    @property
    def levels(self) -> int:
        """The first bit of the levels."""
        return self.unary + self.named * self.low

    @property
    def width(self) -> int:
        """Bytes of a packed row."""
        return -(-(self.levels + self.named * LEVEL_BITS) // 8) + _SCALE


@lru_cache
def row_of(k: int, classes: int) -> Row:
    """The row of topK for C classes, with the l that makes it shortest."""
    named = min(7 * k // 4, classes)
    bits, low = min((named + (classes - 1 >> low) + named * low, low) for low in range(classes.bit_length()))
    return Row(classes, named, low, bits - named * low)


def pack(k: int, logits: np.ndarray) -> np.ndarray:
    """Finite logits float32 (..., C) of magnitude at most 65504 as packed rows uint8 (..., W)."""
    row = row_of(k, logits.shape[-1])
    rows = np.ascontiguousarray(logits).reshape(-1, row.classes)
    packed = np.empty((len(rows), row.width), np.uint8)
    for some in _chunks(row, len(rows)):
        packed[some] = _pack(row, rows[some])
    return packed.reshape(*logits.shape[:-1], row.width)


def unpack(k: int, classes: int, packed: np.ndarray) -> np.ndarray:
    """Stored rows uint8 (..., W) as float32 (..., C); a product and a difference, each rounded, make a named logit.

    Raises IntegrityError for a row that ``pack`` never writes: classes out of order or out of range, a scale that is
    not finite, padding that is not zero.
    """
    row = row_of(k, classes)
    rows = np.ascontiguousarray(packed).reshape(-1, row.width)
    logits = np.empty((len(rows), classes), np.float32)
    for some in _chunks(row, len(rows)):
        _unpack(row, rows[some], logits[some])
    return logits.reshape(*packed.shape[:-1], classes)


def _chunks(row: Row, rows: int) -> Iterator[slice]:
    count = max(1, _CHUNK // row.classes)
    return (slice(first, first + count) for first in range(0, rows, count))


def _pack(row: Row, logits: np.ndarray) -> np.ndarray:
    """Logits float32 (m, C) as packed rows uint8 (m, W)."""
    m, n = len(logits), row.named
    every = np.arange(m)[:, None]
    places = np.flatnonzero(_largest(logits, n)).reshape(m, n)
    values = logits.reshape(-1)[places]
    top = values.max(-1, keepdims=True)
    gaps = top - values
    step = _step(top, gaps.max(-1, keepdims=True))
    # The nearest square: x lies above the middle of i^2 and (i + 1)^2 if sqrt(x - 1/4) lies above i + 1/2.
    nearest = np.rint(np.sqrt(np.maximum(gaps / step - np.float32(0.25), np.float32(0.0))))
    levels = np.clip(nearest, 1, _LEVELS).astype(np.uint8)
    levels[every[:, 0], gaps.argmin(-1)] = 0

    ids = places - row.classes * every
    bits = np.zeros((m, 8 * (row.width - _SCALE)), np.uint8)
    bits.reshape(-1)[(ids >> row.low) + np.arange(n) + bits.shape[-1] * every] = 1
    _write(bits, row.unary, ids.astype(np.uint16), row.low)
    _write(bits, row.levels, levels, LEVEL_BITS)
    scale = np.concatenate([top, step, _rest(row, logits, places, top, step)], -1).astype("<f2")
    return np.concatenate([np.packbits(bits, axis=-1), scale.view(np.uint8)], -1)


def _largest(logits: np.ndarray, n: int) -> np.ndarray:
    """Which n logits of each row (m, C) are the largest, bool (m, C); of equal ones those of the smaller classes."""
    least = np.partition(logits, -n, axis=-1)[:, -n, None]
    chosen = logits >= least
    if np.count_nonzero(chosen) == len(logits) * n:
        return chosen
    for tied in np.flatnonzero(np.count_nonzero(chosen, -1) > n):
        above = logits[tied] > least[tied]
        equal = np.flatnonzero(logits[tied] == least[tied])
        above[equal[: n - np.count_nonzero(above)]] = True
        chosen[tied] = above
    return chosen


def _step(top: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """The step as a float16's value, float32 (m, 1), for the ``gap`` between the largest and the n-th largest logit.

    Rounded up, so that 63 squared steps reach the n-th largest; and large enough that float32 tells the hard label's
    logit from the next.
    """
    least = np.maximum(np.abs(top) * np.float32(2.0**-20), np.float32(2.0**-24))
    wanted = np.maximum(gap / np.float32(_LEVELS**2), least)
    half = wanted.astype(np.float16)
    above = np.nextafter(half, np.float16(np.inf))
    return np.where(half.astype(np.float32) < wanted, above, half).astype(np.float32)


def _rest(row: Row, logits: np.ndarray, places: np.ndarray, top: np.ndarray, step: np.ndarray) -> np.ndarray:
    """How far below ``top`` the one value of the classes that ``places`` does not name lies, float64 (m, 1).

    A logsumexp in float64 (of float32 differences) in base 2, so that the value has the rest's mass at temperature
    1 / ln 2 = 1.44; at least a step, at most float16's largest number.
    """
    if row.named == row.classes:
        return step.astype(np.float64)
    weights = (logits - top).astype(np.float64)
    np.exp2(weights, out=weights)
    weights.reshape(-1)[places] = 0.0
    mean = weights.sum(-1, keepdims=True) / (row.classes - row.named)
    with np.errstate(divide="ignore"):  # a rest so far below that float64 holds nothing of it
        return np.clip(-np.log2(mean), step, 65504.0)


def _unpack(row: Row, packed: np.ndarray, logits: np.ndarray) -> None:
    """Writes the logits float32 (m, C) of packed rows uint8 (m, W)."""
    bits = np.unpackbits(packed[:, :-_SCALE], axis=-1)
    places = _classes(row, bits)
    places += row.classes * np.arange(len(packed))[:, None]
    squares = _read(bits, row.levels, row.named, LEVEL_BITS).astype(np.float32)
    squares *= squares
    scale = np.ascontiguousarray(packed[:, -_SCALE:]).view("<f2").astype(np.float32)
    if not np.isfinite(scale).all() or bits[:, row.levels + row.named * LEVEL_BITS :].any():
        raise IntegrityError("stored logits: a scale that is not finite, or padding that is not zero")
    top, step, rest = scale[:, :1], scale[:, 1:2], scale[:, 2:]
    logits[:] = top - rest
    squares *= step
    logits.reshape(-1)[places] = top - squares


def _classes(row: Row, bits: np.ndarray) -> np.ndarray:
    """The named classes int64 (m, n) from unpacked bits (m, .)."""
    m, n = len(bits), row.named
    ones = np.flatnonzero(np.ascontiguousarray(bits[:, : row.unary]).view(bool))
    if len(ones) != m * n:
        raise IntegrityError(f"stored logits: a row does not name {n} classes")
    ids = ones.reshape(m, n) - (row.unary * np.arange(m)[:, None] + np.arange(n))
    ids <<= row.low
    ids += _read(bits, row.unary, n, row.low)
    # A row with too many classes shifts those of the next below zero, or its own beyond C.
    if (ids[:, 0] < 0).any() or (ids[:, 1:] <= ids[:, :-1]).any() or (ids[:, -1] >= row.classes).any():
        raise IntegrityError(f"stored logits: classes that do not ascend from 0 to {row.classes - 1}")
    return ids


def _write(bits: np.ndarray, first: int, numbers: np.ndarray, width: int) -> None:
    """Writes the last ``width`` bits of unsigned numbers (m, n) as planes of n bits, the most significant first."""
    n = numbers.shape[-1]
    for plane in range(width):
        bits[:, first + plane * n : first + plane * n + n] = numbers >> (width - 1 - plane) & 1


def _read(bits: np.ndarray, first: int, n: int, width: int) -> np.ndarray:
    """The numbers uint16 (m, n) that ``_write`` wrote."""
    numbers = np.zeros((len(bits), n), np.uint16)
    for plane in range(width):
        numbers <<= 1
        numbers |= bits[:, first + plane * n : first + plane * n + n]
    return numbers
