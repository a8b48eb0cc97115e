"""Pillow's arithmetic of the ops that move no pixel, on uint8 planes (3, H, W), in place.

An op that depends on a value alone is a table per channel. Blends are float32, one operation at a time, cut off and not
rounded (libImaging/Blend.c); grey is 16-bit fixed point (Convert.c); smoothing sums float32 from the row below upwards
(Filter.c). Sources of the tables: PIL.ImageOps, PIL.ImageEnhance and timm.data.auto_augment.
"""

import numpy as np

from pipeline.base.compiled import inlined, kernel

_ZERO, _MOST = np.float32(0.0), np.float32(255.0)
_SIDE, _MIDDLE = np.float32(1.0) / np.float32(13.0), np.float32(5.0) / np.float32(13.0)  # PIL.ImageFilter.SMOOTH
_VALUES = np.arange(256)


@inlined
def _blend(low: np.int32, high: np.int32, factor: np.float32) -> np.uint8:
    """ImagingBlend: ``low`` at factor 0, ``high`` at 1, and beyond."""
    value = np.float32(low) + factor * np.float32(high - low)
    return np.uint8(np.int32(min(max(value, _ZERO), _MOST)))


@inlined
def _grey(red: np.uint8, green: np.uint8, blue: np.uint8) -> np.int32:
    return (
        np.int32(red) * np.int32(19595)
        + np.int32(green) * np.int32(38470)
        + np.int32(blue) * np.int32(7471)
        + np.int32(0x8000)
    ) >> np.int32(16)


@kernel
def look_up(planes: np.ndarray, table: np.ndarray) -> None:
    """Every value v of channel c becomes ``table[c, v]``; uint8 (3, 256)."""
    for c in range(3):
        values, new = planes[c].reshape(planes[c].size), table[c]
        for i in range(values.size):
            values[i] = new[values[i]]


@kernel
def count_values(planes: np.ndarray) -> np.ndarray:
    """The histogram of each channel, int64 (3, 256)."""
    counts = np.zeros((3, 256), np.int64)
    for c in range(3):
        values = planes[c].reshape(planes[c].size)
        partial = np.zeros((4, 256), np.int32)  # equal neighbours would wait for each other in one
        whole = values.size // 4 * 4
        for i in range(0, whole, 4):
            for j in range(4):
                partial[j, values[i + j]] += 1
        for i in range(whole, values.size):
            partial[0, values[i]] += 1
        for v in range(256):
            counts[c, v] = partial[0, v] + partial[1, v] + partial[2, v] + partial[3, v]
    return counts


@kernel
def stretched(counts: np.ndarray) -> np.ndarray:
    """The table of PIL.ImageOps.autocontrast for a histogram (3, 256)."""
    table = np.empty((3, 256), np.uint8)
    for c in range(3):
        low, high = 0, 255
        while low < 255 and counts[c, low] == 0:
            low += 1
        while high > 0 and counts[c, high] == 0:
            high -= 1
        if high <= low:
            for v in range(256):
                table[c, v] = v
            continue
        scale = 255.0 / (high - low)
        offset = -low * scale
        for v in range(256):
            table[c, v] = max(0, min(255, int(v * scale + offset)))
    return table


@kernel
def equalized(counts: np.ndarray) -> np.ndarray:
    """The table of PIL.ImageOps.equalize for a histogram (3, 256)."""
    table = np.empty((3, 256), np.uint8)
    for c in range(3):
        total, last, kinds = 0, 0, 0
        for v in range(256):
            if counts[c, v]:
                total += counts[c, v]
                last = counts[c, v]
                kinds += 1
        step = (total - last) // 255 if kinds > 1 else 0
        n = step // 2
        for v in range(256):
            table[c, v] = min(255, n // step) if step else v
            n += counts[c, v]
    return table


@kernel
def mean_grey(planes: np.ndarray) -> int:
    """The mean of the grey picture, rounded as PIL.ImageEnhance.Contrast does."""
    total = np.int64(0)
    for y in range(planes.shape[1]):
        red, green, blue = planes[0, y], planes[1, y], planes[2, y]
        for x in range(planes.shape[2]):
            total += _grey(red[x], green[x], blue[x])
    return int(total / (planes.shape[1] * planes.shape[2]) + 0.5)


@kernel
def saturate(planes: np.ndarray, factor: float) -> None:
    """PIL.ImageEnhance.Color: a blend of the grey picture and the coloured one."""
    share = np.float32(factor)
    for y in range(planes.shape[1]):
        red, green, blue = planes[0, y], planes[1, y], planes[2, y]
        for x in range(planes.shape[2]):
            r, g, b = np.int32(red[x]), np.int32(green[x]), np.int32(blue[x])
            grey = _grey(red[x], green[x], blue[x])
            red[x] = _blend(grey, r, share)
            green[x] = _blend(grey, g, share)
            blue[x] = _blend(grey, b, share)


@kernel
def sharpen(planes: np.ndarray, factor: float) -> None:
    """PIL.ImageEnhance.Sharpness: a blend of the smoothed picture and the sharp one; edges are not smoothed.

    A row's sum of three serves the row above it and the row below it, so it is worked out once.
    """
    share, half = np.float32(factor), np.float32(0.5)
    rows, columns = planes.shape[1:]
    n = columns - 2
    if n < 1:
        return
    all_sides, all_sums = np.empty((3, columns), np.float32), np.empty((3, n), np.float32)
    for c in range(3):
        for y in range(rows):
            row, sides, sums = planes[c, y], all_sides[y % 3], all_sums[y % 3]
            for x in range(columns):
                sides[x] = np.float32(row[x]) * _SIDE
            left, middle, right = sides[:n], sides[1 : n + 1], sides[2 : n + 2]
            for x in range(n):
                sums[x] = (left[x] + middle[x]) + right[x]
            if y < 2:
                continue
            out, sides, above = planes[c, y - 1][1 : n + 1], all_sides[(y - 1) % 3], all_sums[(y - 2) % 3]
            left, right = sides[:n], sides[2 : n + 2]
            for x in range(n):
                value = half + sums[x]
                value += (left[x] + np.float32(out[x]) * _MIDDLE) + right[x]
                value += above[x]
                out[x] = _blend(np.int32(min(max(value, _ZERO), _MOST)), np.int32(out[x]), share)


def blended(degenerate: int, factor: float) -> np.ndarray:
    """The table of a blend of one value for all pixels and the picture: brightness (0) and contrast (its mean)."""
    low, share = np.float32(degenerate), np.float32(factor)
    value = low + share * (_VALUES - degenerate).astype(np.float32)
    return _for_all(value.clip(_ZERO, _MOST))


def posterized(bits: int) -> np.ndarray:
    """``bits`` 0 is black, as in Pillow up to 12; 8 is the picture."""
    return _for_all(_VALUES & ~(2 ** (8 - min(8, bits)) - 1) if bits > 0 else 0 * _VALUES)


def solarized(threshold: int) -> np.ndarray:
    """Pillow's ``ImageOps.solarize``: values from ``threshold`` on are inverted."""
    return _for_all(np.where(threshold > _VALUES, _VALUES, 255 - _VALUES))


def brightened_below(add: int, threshold: int = 128) -> np.ndarray:
    """timm's solarize_add."""
    return _for_all(np.where(threshold > _VALUES, np.minimum(255, _VALUES + add), _VALUES))


def _for_all(values: np.ndarray) -> np.ndarray:
    """One table for the three channels, uint8 (3, 256); fractions are cut off."""
    return np.repeat(values.astype(np.uint8)[None], 3, axis=0)
