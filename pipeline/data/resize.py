"""Pillow 13's resize with 8 bits per channel, of a window of the result (libImaging/Resample.c).

Weights are float64, turned into fixed point with 22 bits; one pass along each axis, rounded to 8 bits between them.
Pillow 13 runs the pass down the columns first where the height shrinks by more than twice as many pixels as the width;
Pillow 12 always runs the pass along the rows first, so 6 to 9 % of random crops differ. Only the window's pixels are
computed, from the source pixels that they need and with the weights of the whole resize.

Both passes handle many pixels at once: down the columns whole rows, along the rows 64 rows, whose pixels are first laid side
by side.
"""

import math
from typing import NamedTuple

import numpy as np

from pipeline.base.compiled import inlined, kernel, known_picture

_BITS = 22  # 32 - 8 - 2: Pillow's PRECISION_BITS
_HALF = np.int32(1 << (_BITS - 1))
_SHIFT = np.int32(_BITS)
LANES = 64  # rows that one step along the rows handles: 4 * 4 * 4
Taps = tuple[np.ndarray, np.ndarray, np.ndarray]  # of each output pixel: first source pixel, their count, weights
Memory = tuple[np.ndarray, np.ndarray, np.ndarray]  # uint8: two of (max(width, 64) * 192,), one of (columns, 192)


@kernel
def weigh(n_in: int, n_out: int, first: int, m: int, cubic: bool) -> Taps:
    """Weights of the m output pixels from ``first`` on, of an axis that goes from ``n_in`` to ``n_out`` pixels.

    Returns the first source pixel of each, int64 (m,), their counts, int64 (m,), and weights, int32 (m, taps).
    Pillow's precompute_coeffs and normalize_coeffs_8bpc.
    """
    scale = np.float64(np.float32(n_in)) / n_out
    stretch = max(scale, 1.0)
    support = (2.0 if cubic else 1.0) * stretch
    inverse = 1.0 / stretch
    taps = math.ceil(support) * 2 + 1
    starts, counts, weights = np.empty(m, np.int64), np.empty(m, np.int64), np.empty((m, taps), np.int32)
    exact = np.empty(taps, np.float64)
    for i in range(m):
        center = (i + first + 0.5) * scale
        start = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), n_in) - start
        total = 0.0
        for k in range(count):
            x = abs((k + start - center + 0.5) * inverse)
            w = 0.0
            if cubic:
                if x < 1.0:
                    w = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
                elif x < 2.0:
                    w = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
            elif x < 1.0:
                w = 1.0 - x
            exact[k] = w
            total += w
        for k in range(count):
            w = (exact[k] / total if total != 0.0 else exact[k]) * (1 << _BITS)
            weights[i, k] = int(w - 0.5) if w < 0.0 else int(w + 0.5)
        starts[i] = start
        counts[i] = count
    return starts, counts, weights


@inlined
def _sum_of_three(sums: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, weights: np.ndarray) -> None:
    w0, w1, w2 = weights[0], weights[1], weights[2]
    for x in range(sums.shape[0]):
        sums[x] = _HALF + w0 * np.int32(a[x]) + w1 * np.int32(b[x]) + w2 * np.int32(c[x])


@inlined
def _add(sums: np.ndarray, source: np.ndarray, weight: np.int32) -> None:
    for x in range(sums.shape[0]):
        sums[x] += weight * np.int32(source[x])


@inlined
def _round(sums: np.ndarray, out: np.ndarray) -> None:
    for x in range(sums.shape[0]):
        out[x] = np.uint8(max(np.int32(0), min(np.int32(255), sums[x] >> _SHIFT)))


@kernel
def down_columns(
    source: np.ndarray, top: int, left: int, width: int, taps: Taps, out: np.ndarray, out_top: int, out_left: int
) -> None:
    """``width`` columns of ``source`` from ``left`` on, resized down the columns, into ``out`` from ``out_left`` on.

    Source rows are counted from ``top``. Both uint8 (rows, columns); interleaved channels are columns, too.
    """
    starts, counts, weights = taps
    sums = np.empty(width, np.int32)
    end = left + width
    for i in range(starts.shape[0]):
        y, k = top + starts[i], 0
        if counts[i] >= 3:
            _sum_of_three(sums, source[y][left:end], source[y + 1][left:end], source[y + 2][left:end], weights[i])
            k = 3
        else:
            sums[:] = _HALF
        while k < counts[i]:
            _add(sums, source[y + k][left:end], weights[i, k])
            k += 1
        _round(sums, out[out_top + i][out_left : out_left + width])


@inlined
def _interleave(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, out: np.ndarray) -> None:
    for x in range(a.shape[0]):
        out[4 * x] = a[x]
        out[4 * x + 1] = b[x]
        out[4 * x + 2] = c[x]
        out[4 * x + 3] = d[x]


@kernel
def _lay_side_by_side(
    source: np.ndarray, top: int, left: int, rows: int, width: int, one: np.ndarray, two: np.ndarray
) -> None:
    """A transposition: ``one[x * 64 + j]`` becomes column x of row ``top + j``; ``two`` is room.

    Three rounds that interleave four rows each, which a CPU does with whole registers. Beyond ``rows`` the last row is
    repeated.
    """
    last = top + rows - 1
    for i in range(16):
        _interleave(
            source[min(top + i, last)][left : left + width],
            source[min(top + i + 16, last)][left : left + width],
            source[min(top + i + 32, last)][left : left + width],
            source[min(top + i + 48, last)][left : left + width],
            one[4 * width * i : 4 * width * (i + 1)],
        )
    n = 4 * width
    for i in range(4):
        a, b, c, d = n * i, n * (i + 4), n * (i + 8), n * (i + 12)
        _interleave(one[a : a + n], one[b : b + n], one[c : c + n], one[d : d + n], two[4 * n * i : 4 * n * (i + 1)])
    n *= 4
    _interleave(two[:n], two[n : 2 * n], two[2 * n : 3 * n], two[3 * n : 4 * n], one[: 4 * n])


@kernel
def along_rows(
    source: np.ndarray, top: int, left: int, rows: int, width: int, taps: Taps, flip: bool,
    out: np.ndarray, out_top: int, out_left: int, memory: Memory,
) -> None:  # fmt: skip
    """``rows`` rows of ``source`` from ``top`` on, resized along the rows, into ``out`` from (out_top, out_left) on.

    ``source``: uint8 (rows, 3 * columns), channels interleaved; source columns are counted from ``left``, and ``width`` of
    them are all that is needed. ``out``: uint8 (3, rows, columns). ``flip``: the last column first.
    """
    starts, counts, weights = taps
    one, two, done = memory
    m, n = starts.shape[0], 3 * LANES
    sums = np.empty(n, np.int32)
    for y in range(0, rows, LANES):
        # 64 rows and three channels side by side: 192 values that share their weights
        lanes = min(LANES, rows - y)
        _lay_side_by_side(source, top + y, 3 * left, lanes, 3 * width, one, two)
        for i in range(m):
            at, k = starts[i] * n, 0
            if counts[i] >= 3:
                first, second, third = one[at : at + n], one[at + n : at + 2 * n], one[at + 2 * n : at + 3 * n]
                _sum_of_three(sums, first, second, third, weights[i])
                k = 3
            else:
                sums[:] = _HALF
            while k < counts[i]:
                _add(sums, one[at + k * n : at + k * n + n], weights[i, k])
                k += 1
            _round(sums, done[m - 1 - i if flip else i])
        # back to rows, 64 columns at a time
        for i in range(0, m, LANES):
            count = min(LANES, m - i)
            _lay_side_by_side(done, i, 0, count, n, one, two)
            for c in range(3):
                for j in range(lanes):
                    at = (c * LANES + j) * LANES
                    row, new = out[c, out_top + y + j][out_left + i : out_left + i + count], one[at : at + count]
                    for x in range(count):
                        row[x] = new[x]


@kernel
def _resize(
    source: np.ndarray, box: tuple[int, int, int, int], scaled: tuple[int, int], window: tuple[int, int, int, int],
    cubic: bool, flip: bool, out: np.ndarray, place: tuple[int, int], mid: np.ndarray, memory: Memory,
) -> None:  # fmt: skip
    """``resize`` below with its memory at hand."""
    top, left, height, width = box
    first_y, first_x, rows, columns = window
    taps_y = starts_y, counts_y, _ = weigh(height, scaled[0], first_y, rows, cubic)
    taps_x = starts_x, counts_x, _ = weigh(width, scaled[1], first_x, columns, cubic)
    # the source rows and columns that the window needs
    top, left = top + starts_y[0], left + starts_x[0]
    height_in = starts_y[-1] + counts_y[-1] - starts_y[0]
    width_in = starts_x[-1] + counts_x[-1] - starts_x[0]
    starts_y -= starts_y[0]
    starts_x -= starts_x[0]
    at_y, at_x = place
    if height - scaled[0] > 0 and height - scaled[0] > 2 * (width - scaled[1]):
        n = 3 * width_in
        between = mid[: rows * n].reshape(rows, n)
        down_columns(source, top, 3 * left, n, taps_y, between, 0, 0)
        along_rows(between, 0, 0, rows, width_in, taps_x, flip, out, at_y, at_x, memory)
    else:
        planes = mid[: 3 * height_in * columns].reshape(3, height_in, columns)
        along_rows(source, top, left, height_in, width_in, taps_x, flip, planes, 0, 0, memory)
        for c in range(3):
            down_columns(planes[c], 0, 0, columns, taps_y, out[c], at_y, at_x)


class Scaling(NamedTuple):
    """The part ``window`` of the crop ``box`` of an image when that is resized to ``scaled``, (height, width). ``box``,
    ``window``: (top, left, height, width), in the image and in the resized crop. ``flip``: the window left to right."""

    box: tuple[int, int, int, int]
    scaled: tuple[int, int]
    window: tuple[int, int, int, int]
    cubic: bool
    flip: bool


def resize(image: np.ndarray, scaling: Scaling, out: np.ndarray, place: tuple[int, int], room: "Room") -> None:
    """``scaling`` of ``image``, uint8 (H, W, 3), contiguous, into ``out``, uint8 (3, rows, columns), contiguous; the
    window's corner goes to ``place`` (row, column)."""
    height, width = image.shape[:2]
    _, _, rows, columns = scaling.window
    need_y, need_x = (
        _needed(scaling.box[2 + axis], scaling.scaled[axis], scaling.window[2 + axis], scaling.cubic)
        for axis in range(2)
    )
    mid = room.take(0, 3 * max(rows * need_x, need_y * columns))
    one, two = (room.take(i, 3 * LANES * max(need_x, LANES)) for i in (1, 2))
    done = room.take(3, 3 * LANES * columns).reshape(-1, 3 * LANES)
    _resize(image.reshape(height, 3 * width), *scaling, out, place, mid, (one, two, done))


def resize_whole(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image``, uint8 (H, W, 3), bicubic at another size, uint8 (height, width, 3)."""
    out = np.empty((3, height, width), np.uint8)
    box = (0, 0, image.shape[0], image.shape[1])
    resize(image, Scaling(box, (height, width), (0, 0, height, width), True, False), out, (0, 0), Room())
    return np.ascontiguousarray(out.transpose(1, 2, 0))


KNOWN_RESIZED = (
    "e4e99e3523503ce0dd3a967db7903efcfc11bff4736c9997c2ac5d6858919617"  # SHA-256 of ``known_resized`` by Pillow 13
)


def known_resized() -> bytes:
    """The pixels of a small picture, reduced in one direction and enlarged in the other."""
    return resize_whole(known_picture(41, 23), 17, 90).tobytes()


def _needed(n_in: int, n_out: int, count: int, cubic: bool) -> int:
    """At most so many source pixels are needed for ``count`` output pixels; room to spare does no harm."""
    scale = n_in / n_out
    return min(n_in, int(count * scale + 2 * (2.0 if cubic else 1.0) * max(scale, 1.0)) + 4)


class Room:
    """Memory for what stands between two passes, kept from one image to the next."""

    def __init__(self) -> None:
        self._memory = [np.empty(0, np.uint8)] * 4

    def take(self, which: int, count: int) -> np.ndarray:
        """``count`` bytes, uint8, filled with anything."""
        if self._memory[which].size < count:
            self._memory[which] = np.empty(count, np.uint8)
        return self._memory[which][:count]
