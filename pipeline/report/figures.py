"""Lines and points as inline SVG. Pure functions of numbers; colours and fonts are the page's style sheet.

A figure is 360 units wide, about the width of a telephone, so that its text keeps its size there. Ticks are no results:
they stand in groups of class ``axis``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from pipeline.runtime.text import printable

Point = tuple[float, float]
Series = Mapping[str, Sequence[Point]]

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 338, 10, 172  # right of it half of a tick of six characters
COLOURS = 12  # of the style sheet: classes s0 to s11


def lines(
    series: Series, x: str, y: str, about: str, *, diagonal: bool = False, box: tuple[Point, Point] | None = None
) -> str:
    """A figure of one line for each of ``series``, in the colour of its position; a series without points has no line.

    ``about``: the text for people who can't see it. ``diagonal``: adds the line y = x. ``box``: (lowest, highest) corner,
    else the smallest that holds all points.
    """
    low, high = box or _box(point for points in series.values() for point in points)
    drawn = [_grid(low, high, x, y)]
    if diagonal:
        drawn.append(f'<path class="diagonal" d="{_path([low, high], low, high)}"/>')
    for number, (name, points) in enumerate(series.items()):
        if points:
            style = f"line s{number % COLOURS}"
            drawn.append(
                f'<path class="{style}" d="{_path(points, low, high)}"><title>{escape(printable(name))}</title></path>'
            )
            if len(points) == 1:
                drawn.append(_dot(points[0], low, high, number, name))
    return _svg(drawn, about)


def points(series: Mapping[str, Point], x: str, y: str, about: str) -> str:
    """A figure of one point for each of ``series``."""
    low, high = _box(series.values(), margin=0.08)
    dots = [_dot(point, low, high, number, name) for number, (name, point) in enumerate(series.items())]
    return _svg([_grid(low, high, x, y), *dots], about)


def _svg(drawn: Iterable[str], about: str) -> str:
    label = escape(printable(about), quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'


def _dot(point: Point, low: Point, high: Point, number: int, name: str) -> str:
    x, y = _place(point, low, high)
    return f'<circle class="dot s{number % COLOURS}" cx="{x}" cy="{y}" r="5"><title>{escape(printable(name))}</title></circle>'


def _box(found: Iterable[Point], margin: float = 0.0) -> tuple[Point, Point]:
    """The corners of all points, with room around a single value, and a ``margin`` as a share of the range."""
    there = list(found) or [(0.0, 0.0), (1.0, 1.0)]
    sides = []
    for values in zip(*there):
        low, high = min(values), max(values)
        room = margin * (high - low) if high > low else abs(high) * 0.1 or 1.0
        sides.append((low - room, high + room))
    (left, right), (bottom, top) = sides
    return (left, bottom), (right, top)


def _place(point: Point, low: Point, high: Point) -> tuple[float, float]:
    across = (point[0] - low[0]) / ((high[0] - low[0]) or 1.0)
    up = (point[1] - low[1]) / ((high[1] - low[1]) or 1.0)
    return round(_LEFT + across * (_RIGHT - _LEFT), 1), round(_BOTTOM - up * (_BOTTOM - _TOP), 1)


def _path(found: Sequence[Point], low: Point, high: Point) -> str:
    places = [_place(point, low, high) for point in found]
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in places)


def _grid(low: Point, high: Point, x: str, y: str) -> str:
    """Ticks at round values, with their lines, and the names of both axes."""
    drawn = []
    for value in ticks(low[1], high[1]):
        _, at = _place((low[0], value), low, high)
        drawn.append(
            f'<path d="M{_LEFT},{at}H{_RIGHT}"/><text x="{_LEFT - 5}" y="{at + 4}" class="end">{short(value)}</text>'
        )
    for value in ticks(low[0], high[0]):
        at, _ = _place((value, low[1]), low, high)
        drawn.append(f'<text x="{at}" y="{_BOTTOM + 15}" class="middle">{short(value)}</text>')
    middle = (_LEFT + _RIGHT) / 2
    names = f'<text x="{middle}" y="{_HEIGHT - 6}" class="middle">{escape(x)}</text>'
    names += f'<text transform="translate(11 {(_TOP + _BOTTOM) / 2}) rotate(-90)" class="middle">{escape(y)}</text>'
    return f'<g class="axis" aria-hidden="true">{"".join(drawn)}{names}</g>'


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values from ``low`` to ``high``."""
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick's text: at most six characters."""
    if value and (abs(value) < 1e-4 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:g}"
