"""A worker's half of drawing for a GPU: it decodes, chooses, and packs what draw.cu needs into one piece of memory.

Of each image, the rectangle around its views' crops is packed. Behind the images are two tables: one row of ``VIEW`` per view,
one row of ``OP`` per op. A view that draw.cu can't draw, or whose image has no room, is drawn here and packed as pixels. Any
view may be, because the bits are the same.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.data.images import STORED, Rule
from pipeline.data.shards import Sample, Shards
from pipeline.views import draw
from pipeline.views.affine import about_the_middle
from pipeline.views.choose import Box, View, choose
from pipeline.views.kernels import overlap
from pipeline.views.policies import Op, parse
from pipeline.views.recipe import Recipe

VIEW = np.dtype(
    [("source", np.int64)]
    + [(name, np.int32) for name in (
        "pitch top left height width scaled_height scaled_width first_y first_x rows columns place_y place_x flip first_op ops"
    ).split()],
    align=True,
)  # fmt: skip
OP = np.dtype([("kind", np.int32), ("whole", np.int32), ("real", np.float64, 6)], align=True)
CONSTANTS = np.dtype([("size", np.int32), ("cubic", np.int32), ("fill", np.uint8, 4)], align=True)
_KINDS = (
    "AutoContrast Equalize Posterize Solarize SolarizeAdd Brightness Contrast Color Sharpness along_rows along_columns Rotate "
    "quarters"
).split()  # draw.cu's enum Kind
LARGEST = 16  # times R: a view of a larger crop is drawn here, since it would need too much of the GPU's memory


@dataclass(frozen=True)
class Packed:
    """The layout of ``bytes`` bytes of packed memory: the tables of views and ops begin at ``views_at`` and ``ops_at``. ``room``:
    bytes of scratch memory with which a block can draw any of the views. ``taps``: of the widest filter. ``drawn``: number of
    views that are packed as pixels; ``large``: those among them whose image had no room."""

    views: int
    views_at: int
    ops_at: int
    bytes: int
    room: int
    taps: int
    drawn: int
    large: int


def constants(recipe: Recipe) -> np.ndarray:
    """The row of ``CONSTANTS`` for all views of ``recipe``."""
    row = np.zeros(1, CONSTANTS)
    row["size"], row["cubic"] = recipe.size, recipe.interpolation == "bicubic"
    row["fill"][0, :3] = recipe.fill
    return row


def table_bytes(recipe: Recipe, views: int) -> int:
    """Upper bound of the bytes of the tables of ``views`` views."""
    policy = parse(recipe.policy)
    ops = (policy.layers * max(map(len, policy.groups)) if policy else 0) + (3 if recipe.color_jitter else 0)
    return views * (VIEW.itemsize + OP.itemsize * ops) + VIEW.itemsize


class Packer:
    """Packs images and their views, ``views`` views in all, into ``memory``, uint8 and contiguous."""

    def __init__(self, recipe: Recipe, memory: np.ndarray, views: int) -> None:
        self.recipe, self.memory, self.missing = recipe, memory, views
        self.pixels, self.most = 3 * recipe.size**2, room(recipe, LARGEST)
        self.end = len(memory) - table_bytes(recipe, views)
        assert self.end >= views * self.pixels, "there is room for all views as pixels"
        self.at = self.large = 0
        # of each view: itself (None: packed as pixels), then source, pitch, top and left of the packed part of its image
        self.places: list[tuple[View | None, int, int, int, int]] = []

    def add(self, image: np.ndarray, views: Sequence[View]) -> None:
        """Packs the next image, uint8 (H, W, 3) and contiguous, for its ``views``."""
        sent = [drawable(view, self.recipe, self.most) for view in views]
        boxes = [_needed(view, self.recipe) for view, fits in zip(views, sent) if fits]
        top, left, height, width = _around(boxes)
        part, source = image[top : top + height, left : left + width], self.at
        if self.at + part.size + (self.missing - len(boxes)) * self.pixels > self.end:
            self.large += len(boxes)
            sent, boxes = [False] * len(views), []
        if boxes:
            self.memory[source : source + part.size].reshape(part.shape)[:] = part
            self.at += part.size
        for view, fits in zip(views, sent):
            self.places.append((view, source, 3 * width, top, left) if fits else self._draw(image, view))
        self.missing -= len(views)

    def _draw(self, image: np.ndarray, view: View) -> tuple[None, int, int, int, int]:
        at, size = self.at, self.recipe.size
        draw.draw_into(image, view, self.recipe, self.memory[at : at + self.pixels].reshape(3, size, size))
        self.at += self.pixels
        return None, at, 0, 0, 0

    def finish(self, order: Sequence[int]) -> Packed:
        """Writes the tables behind the pixels. ``order``: for each row of the table, the number of its view in the order of
        ``add``. All rows are written at the end, because Python takes twice as long right after decoding, which evicts its data
        from the CPU's caches."""
        rows: list[tuple[int, ...]] = []
        ops: list[tuple[int, int, tuple[float, ...]]] = []
        taps = side = drawn = 0
        for number in order:
            view, source, pitch, top, left = self.places[number]
            if view is None:
                rows.append((source, *[0] * (len(VIEW.names or ()) - 1)))
                drawn += 1
                continue
            rows.append(_row(view, self.recipe.size, (source, pitch, top, left), len(ops)))
            ops += [_coded(op, self.recipe) for op in view.ops]
            filter_, longer = _needs(view, self.recipe)
            taps, side = max(taps, filter_), max(side, longer)
        views_at = -(-self.at // VIEW.alignment) * VIEW.alignment
        ops_at = views_at + len(rows) * VIEW.itemsize
        end = ops_at + len(ops) * OP.itemsize
        self.memory[views_at:ops_at] = np.array(rows, VIEW).view(np.uint8)
        self.memory[ops_at:end] = np.array(ops, OP).view(np.uint8)
        return Packed(len(rows), views_at, ops_at, end, _room(self.recipe.size, taps, side), taps, drawn, self.large)


def _row(view: View, size: int, place: tuple[int, int, int, int], first_op: int) -> tuple[int, ...]:
    """``view`` as a row of ``VIEW``. ``place``: source, pitch, top and left of the packed part of its image."""
    source, pitch, top, left = place
    (place_y, first_y, rows), (place_x, first_x, columns) = (
        overlap(view.window[axis], size, view.scaled[axis]) for axis in range(2)
    )
    if view.flip:
        place_x = size - place_x - columns
    down, along, height, width = view.box
    return (
        source, pitch, down - top, along - left, height, width, *view.scaled,
        first_y, first_x, rows, columns, place_y, place_x, int(view.flip), first_op, len(view.ops),
    )  # fmt: skip


def pack_block(
    samples: Sequence[Sample], recipe: Recipe, first_view: int, repeats: int, memory: np.ndarray, rule: Rule = STORED
) -> tuple[list[list[View]], Packed]:
    """Packs r = ``repeats`` views of n samples into ``memory`` in the order of ``draw_block``. Returns their decisions, r lists
    of n, and the layout. Each image is decoded once. Raises Undecodable."""
    packer, chosen = Packer(recipe, memory, repeats * len(samples)), []
    for image, views in draw.decoded(samples, recipe, first_view, repeats, rule):
        packer.add(image, views)
        chosen.append(views)
    return [list(of) for of in zip(*chosen)], packer.finish(by_view(len(samples), repeats))


def by_view(images: int, repeats: int) -> list[int]:
    """For each view in the order of ``draw_block``, its number in the order of ``Packer.add``."""
    return [row * repeats + i for i in range(repeats) for row in range(images)]


def block_room(shards: Shards, recipe: Recipe, repeats: int) -> int:
    """Bytes for a packed block in r = ``repeats`` views. Measured on the first two blocks, the images of a block get 1.3 times
    the mean of what they need; at least the bytes of the drawn views, at most twice as many."""
    sizes = []
    for block in shards.blocks[:2]:
        for sample in shards.read(block):
            with Image.open(io.BytesIO(sample.data)) as image:  # reads the header only
                width, height = image.size
            views = [choose(recipe, sample.key, i, height, width) for i in range(repeats)]
            _, _, height, width = _around([_needed(view, recipe) for view in views])
            sizes.append(3 * height * width)
    rows = repeats * max(block.samples for block in shards.blocks)
    drawn = rows * 3 * recipe.size**2
    wanted = int(1.3 * sum(sizes) / len(sizes) * rows / repeats)
    return max(drawn, min(wanted, 2 * drawn)) + table_bytes(recipe, rows)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box around all ``boxes``."""
    if not boxes:
        return 0, 0, 0, 0
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    bottom, right = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return top, left, bottom - top, right - left


def _needed(view: View, recipe: Recipe) -> Box:
    """The part of a view's crop on which its pixels depend: less than the crop where the view shows only a window of it."""
    size, (top, left, height, width) = recipe.size, view.box
    if view.scaled == (size, size) and view.window == (0, 0):
        return view.box
    filter_ = 2.0 if recipe.interpolation == "bicubic" else 1.0
    spans = []
    for n_in, n_out, window in zip((height, width), view.scaled, view.window):
        _, first, count = overlap(window, size, n_out)
        scale = n_in / n_out
        reach = filter_ * max(1.0, scale) + 1.0
        start, stop = max(0, math.floor(first * scale - reach)), min(n_in, math.ceil((first + count) * scale + reach))
        spans.append((start, stop - start) if count > 0 else (0, 1))
    (down, rows), (along, columns) = spans
    return top + down, left + along, rows, columns


def drawable(view: View, recipe: Recipe, most: int) -> bool:
    """Whether draw.cu can draw ``view``: it has all the ops, and ``most`` bytes of scratch memory are enough for the crop."""
    return _room(recipe.size, *_needs(view, recipe)) <= most and "GaussianBlur" not in dict(view.ops)


def room(recipe: Recipe, times: int) -> int:
    """Bytes of scratch memory with which a block can draw a crop of sides ``times`` R."""
    side = times * recipe.size
    return _room(recipe.size, *_needs(View((0, 0, side, side), (recipe.size,) * 2, (0, 0), False, (), (), 0), recipe))


def _needs(view: View, recipe: Recipe) -> tuple[int, int]:
    """The taps of the wider of a view's two filters, and the longer side of its crop."""
    (_, _, height, width), (high, wide) = view.box, view.scaled
    ratio = max(1.0, float(np.float32(height)) / high, float(np.float32(width)) / wide)
    return math.ceil((2.0 if recipe.interpolation == "bicubic" else 1.0) * ratio) * 2 + 1, max(height, width)


def _room(size: int, taps: int, side: int) -> int:
    """Bytes of scratch memory as ``draw`` in draw.cu divides it: numbers, a second copy of the view, the result of the first
    pass of a resize."""
    return -(-(4 * (4 + 2 * taps) * size + -(-3 * size**2 // 16) * 16 + 3 * size * side) // 256) * 256


def _coded(op: Op, recipe: Recipe) -> tuple[int, int, tuple[float, ...]]:
    """``op`` as a row of ``OP``: kind, an integer, six floats."""
    name, arguments = op
    short, whole, real = name.removesuffix("Increasing").removesuffix("Original"), 0, (0.0,) * 6
    match short:
        case "Invert":
            short = "Solarize"
        case "Posterize" | "Solarize" | "SolarizeAdd":
            whole = int(arguments[0])
        case "Desaturate":
            short, real = "Color", (min(1.0, max(0.0, 1.0 - arguments[0])), *real[1:])
        case "Brightness" | "Contrast" | "Color" | "Sharpness":
            real = (float(arguments[0]), *real[1:])
        case "ShearX" | "ShearY":
            short, real = "along_rows" if short == "ShearX" else "along_columns", (float(arguments[0]), *real[1:])
        case "TranslateXRel" | "TranslateYRel":
            short = "along_rows" if short == "TranslateXRel" else "along_columns"
            real = (0.0, float(arguments[0]) * recipe.size, *real[2:])
        case "Rotate":
            degrees = float(arguments[0]) % 360.0
            if degrees % 90.0 == 0.0:
                short, whole = "quarters", int(degrees // 90.0)
            else:
                real = tuple(about_the_middle(degrees, recipe.size).tolist())
    return _KINDS.index(short), whole, real
