"""Pillow's affine ops with bicubic (a = -1) or bilinear interpolation, on uint8 planes (3, H, W), in place.

As in libImaging/Geometry.c, source coordinates and weights are float64, computed one operation at a time. Neighbours
outside of the picture are those at its edge. Results are truncated, not rounded. A pixel whose source lies outside of the
picture gets ``fill``.

First, every four neighbouring pixels are packed into one uint32, so that one look-up fetches them. A shift or a shear along
one axis then needs one look-up per pixel and channel: along the other axis the source falls on a pixel, and Pillow's second
interpolation does not change its value. A rotation needs four.
"""

import math

import numpy as np

from pipeline.base.compiled import inlined, kernel

_BYTE = np.uint32(255)


@kernel
def _pack_rows(planes: np.ndarray, packed: np.ndarray) -> None:
    """``packed[c, y + 2, x + 1]``: pixels x - 1, x, x + 1, x + 2 of row y; uint32 (3, H + 4, W + 1)."""
    height, width = planes.shape[1:]
    row = np.empty(width + 4, np.uint32)
    for c in range(3):
        for y in range(height + 4):
            old = planes[c, min(max(y - 2, 0), height - 1)]
            inner = row[2 : width + 2]
            for x in range(width):
                inner[x] = old[x]
            row[0] = row[1] = old[0]
            row[width + 2] = row[width + 3] = old[width - 1]
            a, b, c_, d = row[: width + 1], row[1 : width + 2], row[2 : width + 3], row[3 : width + 4]
            out = packed[c, y]
            for x in range(width + 1):
                out[x] = a[x] | b[x] << np.uint32(8) | c_[x] << np.uint32(16) | d[x] << np.uint32(24)


@kernel
def _pack_columns(planes: np.ndarray, packed: np.ndarray) -> None:
    """``packed[c, y + 1, x]``: pixels y - 1, y, y + 1, y + 2 of column x; uint32 (3, H + 1, W)."""
    height, width = planes.shape[1:]
    last = height - 1
    for c in range(3):
        for y in range(height + 1):
            a, b = planes[c, max(y - 2, 0)], planes[c, max(y - 1, 0)]
            c_, d = planes[c, min(y, last)], planes[c, min(y + 1, last)]
            out = packed[c, y]
            for x in range(width):
                out[x] = (
                    np.uint32(a[x])
                    | np.uint32(b[x]) << np.uint32(8)
                    | np.uint32(c_[x]) << np.uint32(16)
                    | np.uint32(d[x]) << np.uint32(24)
                )


@inlined
def _between(four: np.uint32, part: float, cubic: bool) -> float:
    """The value at ``part`` (0 to 1) of the way from the second to the third of four pixels. Sums of pixels are integers, and
    so exact."""
    v1 = np.int32(four & _BYTE)
    v2 = np.int32(four >> np.uint32(8) & _BYTE)
    v3 = np.int32(four >> np.uint32(16) & _BYTE)
    v4 = np.int32(four >> np.uint32(24))
    if cubic:
        p2 = np.float64(v3 - v1)
        p3 = np.float64(np.int32(2) * (v1 - v2) + v3 - v4)
        p4 = np.float64(v2 - v1 - v3 + v4)
        return np.float64(v2) + part * (p2 + part * (p3 + part * p4))
    return np.float64(v2) + np.float64(v3 - v2) * part


@inlined
def _cut_off(value: float) -> np.uint8:
    return np.uint8(np.int32(min(max(value, 0.0), 255.0)))


@kernel
def _slide(
    planes: np.ndarray, packed: np.ndarray, along_rows: bool, slope: float, shift: float, fill: np.ndarray, cubic: bool
) -> None:
    """Moves pixels along one axis: the source of a pixel lies ``slope`` * (its coordinate on the other axis) + ``shift`` further
    along."""
    height, width = planes.shape[1:]
    side = width if along_rows else height
    place, part = np.empty(width, np.float64), np.empty(width, np.float64)
    index, four = np.empty(width, np.uint32), np.empty(width, np.uint32)
    for y in range(height):
        # sources of the pixels of this row
        if along_rows:
            across = slope * (y + 0.5)
            for x in range(width):
                place[x] = (x + 0.5) + across + shift
        else:
            for x in range(width):
                place[x] = slope * (x + 0.5) + (y + 0.5) + shift
        # sources rise or fall monotonically along a row, so those inside of the picture form one range
        first, end = 0, width
        while first < width and not 0.0 <= place[first] < side:
            first += 1
        while end > first and not 0.0 <= place[end - 1] < side:
            end -= 1
        # the index of each source's four neighbours, and its position between them
        n = end - first
        inside, parts, where, found = place[first:end], part[:n], index[:n], four[:n]
        for x in range(n):
            at = inside[x] - 0.5
            whole = math.floor(at)
            parts[x] = at - whole
            step = np.int32(whole) + np.int32(1)
            if along_rows:
                where[x] = np.uint32(np.int32((y + 2) * (width + 1)) + step)
            else:
                where[x] = np.uint32(step * np.int32(width) + np.int32(first + x))
        for c in range(3):
            pixels, row = packed[c].reshape(packed[c].size), planes[c, y]
            row[:first] = fill[c]
            row[end:] = fill[c]
            out = row[first:end]
            for x in range(n):
                found[x] = pixels[where[x]]
            for x in range(n):
                out[x] = _cut_off(_between(found[x], parts[x], cubic))


@kernel
def _turn(planes: np.ndarray, packed: np.ndarray, matrix: np.ndarray, fill: np.ndarray, cubic: bool) -> None:
    """Any affine op; ``matrix``: float64 (6,), maps a pixel of the result to its source."""
    height, width = planes.shape[1:]
    a, b, c0, d, e, f0 = matrix[0], matrix[1], matrix[2], matrix[3], matrix[4], matrix[5]
    at_x, at_y = np.empty(width, np.float64), np.empty(width, np.float64)
    index, four = np.empty(width, np.uint32), np.empty(width, np.uint32)
    lines = np.empty((4, width), np.float64)
    for y in range(height):
        # sources of the pixels of this row
        for x in range(width):
            at_x[x] = a * (x + 0.5) + b * (y + 0.5) + c0
            at_y[x] = d * (x + 0.5) + e * (y + 0.5) + f0
        # sources lie on a straight line, so those inside of the picture form one range
        first, end = 0, width
        while first < width and not (0.0 <= at_x[first] < width and 0.0 <= at_y[first] < height):
            first += 1
        while end > first and not (0.0 <= at_x[end - 1] < width and 0.0 <= at_y[end - 1] < height):
            end -= 1
        # the index of each source's four neighbours in the first of four rows, and its position between them
        n = end - first
        parts_x, parts_y, where = at_x[first:end], at_y[first:end], index[:n]
        for x in range(n):
            u, v = parts_x[x] - 0.5, parts_y[x] - 0.5
            column, row_ = math.floor(u), math.floor(v)
            parts_x[x] = u - column
            parts_y[x] = v - row_
            where[x] = np.uint32((np.int32(row_) + np.int32(1)) * np.int32(width + 1) + np.int32(column) + np.int32(1))
        for c in range(3):
            pixels, row = packed[c].reshape(packed[c].size), planes[c, y]
            row[:first] = fill[c]
            row[end:] = fill[c]
            # interpolate along each of the four rows, then between the rows
            for k in range(4):
                offset, line, found = np.uint32(k * (width + 1)), lines[k], four[:n]
                for x in range(n):
                    found[x] = pixels[where[x] + offset]
                for x in range(n):
                    line[x] = _between(found[x], parts_x[x], cubic)
            l1, l2, l3, l4, out = lines[0], lines[1], lines[2], lines[3], row[first:end]
            for x in range(n):
                v1, v2, v3, v4, part = l1[x], l2[x], l3[x], l4[x], parts_y[x]
                if cubic:
                    p2, p3, p4 = -v1 + v3, 2 * (v1 - v2) + v3 - v4, -v1 + v2 - v3 + v4
                    out[x] = _cut_off(v2 + part * (p2 + part * (p3 + part * p4)))
                else:
                    out[x] = _cut_off(v2 + (v3 - v2) * part)


def slide(
    planes: np.ndarray, along_rows: bool, slope: float, shift: float, fill: np.ndarray, cubic: bool, room: np.ndarray
) -> None:
    """timm's shear and translate ops. ``fill``: uint8 (3,). ``room``: uint32, at least 3 (H + 4) (W + 4)."""
    height, width = planes.shape[1:]
    if along_rows:
        packed = room[: 3 * (height + 4) * (width + 1)].reshape(3, height + 4, width + 1)
        _pack_rows(planes, packed)
    else:
        packed = room[: 3 * (height + 1) * width].reshape(3, height + 1, width)
        _pack_columns(planes, packed)
    _slide(planes, packed, along_rows, slope, shift, fill, cubic)


def turn(planes: np.ndarray, degrees: float, fill: np.ndarray, cubic: bool, room: np.ndarray) -> None:
    """PIL.Image.rotate of a square picture about its middle; arguments as for ``slide``."""
    degrees %= 360.0
    if degrees % 90.0 == 0.0:
        planes[:] = np.rot90(planes, int(degrees // 90.0), axes=(1, 2)).copy()
        return
    size = planes.shape[1]
    packed = room[: 3 * (size + 4) * (size + 1)].reshape(3, size + 4, size + 1)
    _pack_rows(planes, packed)
    _turn(planes, packed, about_the_middle(degrees, size), fill, cubic)


def about_the_middle(degrees: float, size: int) -> np.ndarray:
    angle, middle = -math.radians(degrees), size / 2
    a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
    d, e = round(-math.sin(angle), 15), round(math.cos(angle), 15)
    return np.array([a, b, a * -middle + b * -middle + 0.0 + middle, d, e, d * -middle + e * -middle + 0.0 + middle])
