"""Views by compiled kernels, with Pillow 13's bits under any Pillow.

Pillow itself draws what has no kernel: the Gaussian blur of timm's 3-Augment, which Pillow 12 and 13 draw alike.
"""

import threading

import numpy as np
from PIL import Image

from pipeline.base.compiled import known_picture
from pipeline.data.resize import Room, Scaling, resize
from pipeline.views import affine, colour
from pipeline.views.choose import View
from pipeline.views.decode import decode as decode  # the door takes ``decode`` and ``draw`` of an implementation
from pipeline.views.pillow import RESAMPLE
from pipeline.views.policies import Op, apply
from pipeline.views.recipe import Recipe

_KNOWN_RECIPE = Recipe(seed=0, size=40)
KNOWN_VIEW = (
    "6750ce0f1745af947a9711ce8eb6630884bb4b37016db32d5b902833c9f2eac4"  # SHA-256 of ``known_view`` by Pillow 13
)


class _Scratch(threading.local):
    """Memory that every view of this thread reuses: fresh memory costs a page fault per 4 kB."""

    def __init__(self) -> None:
        self.room, self.packed = Room(), np.empty(0, np.uint32)

    def neighbours(self, size: int) -> np.ndarray:
        """Room for the affine ops."""
        if self.packed.size < 3 * (size + 4) * (size + 4):
            self.packed = np.empty(3 * (size + 4) * (size + 4), np.uint32)
        return self.packed


_scratch = _Scratch()


def draw(pixels: np.ndarray, view: View, recipe: Recipe, out: np.ndarray) -> None:
    """Draws ``view`` of the image ``pixels``, uint8 (H, W, 3) and contiguous, into ``out``, uint8 (3, R, R), contiguous.

    Only the part of the resized crop that lies in the view is computed; the rest of the view is black.
    """
    size = recipe.size
    (top, first, rows), (left, first_x, columns) = (
        overlap(view.window[axis], size, view.scaled[axis]) for axis in range(2)
    )
    if rows < size or columns < size:
        out[:] = 0
    if rows > 0 and columns > 0:
        place = (top, size - left - columns if view.flip else left)
        window, cubic = (first, first_x, rows, columns), recipe.interpolation == "bicubic"
        resize(pixels, Scaling(view.box, view.scaled, window, cubic, view.flip), out, place, _scratch.room)
    for op in view.ops:
        _apply(op, recipe, out)


def overlap(start: int, size: int, there: int) -> tuple[int, int, int]:
    """Of a window of ``size`` from ``start`` on over ``there`` pixels: where its pixels begin in the window and in what
    is there, and how many they are."""
    first, end = max(start, 0), min(start + size, there)
    return first - start, first, end - first


def _apply(op: Op, recipe: Recipe, planes: np.ndarray) -> None:
    """``op`` on ``planes``, in place. Names and arguments are timm's."""
    name, arguments = op
    match name.removesuffix("Increasing").removesuffix("Original"):
        case "AutoContrast":
            colour.look_up(planes, colour.stretched(colour.count_values(planes)))
        case "Equalize":
            colour.look_up(planes, colour.equalized(colour.count_values(planes)))
        case "Invert":
            colour.look_up(planes, colour.solarized(0))
        case "Posterize":
            colour.look_up(planes, colour.posterized(int(arguments[0])))
        case "Solarize":
            colour.look_up(planes, colour.solarized(int(arguments[0])))
        case "SolarizeAdd":
            colour.look_up(planes, colour.brightened_below(int(arguments[0])))
        case "Brightness":
            colour.look_up(planes, colour.blended(0, arguments[0]))
        case "Contrast":
            colour.look_up(planes, colour.blended(colour.mean_grey(planes), arguments[0]))
        case "Color":
            colour.saturate(planes, float(arguments[0]))
        case "Desaturate":
            colour.saturate(planes, min(1.0, max(0.0, 1.0 - arguments[0])))
        case "Sharpness":
            colour.sharpen(planes, float(arguments[0]))
        case "Rotate" | "ShearX" | "ShearY" | "TranslateXRel" | "TranslateYRel":
            _move(name, float(arguments[0]), recipe, planes)
        case _:
            image = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
            image = apply(image, op, recipe.fill, RESAMPLE[recipe.interpolation])
            planes[:] = np.asarray(image).transpose(2, 0, 1)


def _move(name: str, amount: float, recipe: Recipe, planes: np.ndarray) -> None:
    room, fill = _scratch.neighbours(recipe.size), np.array(recipe.fill, np.uint8)
    cubic = recipe.interpolation == "bicubic"
    if name == "Rotate":
        affine.turn(planes, amount, fill, cubic, room)
    elif name.startswith("Shear"):
        affine.slide(planes, name == "ShearX", amount, 0.0, fill, cubic, room)
    else:
        affine.slide(planes, name == "TranslateXRel", 0.0, amount * recipe.size, fill, cubic, room)


def known_view() -> bytes:
    """The pixels of a small picture under every kernel, so that all are compiled or loaded: enlarged, reduced, and after each
    op."""
    ops: list[Op] = [
        ("AutoContrast", ()),
        ("Equalize", ()),
        ("Contrast", (0.4,)),
        ("Color", (0.4,)),
        ("Sharpness", (1.6,)),
    ]
    ops += [("Rotate", (17.0,)), ("ShearX", (0.2,)), ("ShearY", (-0.3,)), ("TranslateXRel", (0.1,))]
    pixels, drawn = known_picture(61, 53), []
    for scaled in ((120, 90), (40, 35)):
        for op in ops:
            view = View((2, 3, 57, 49), scaled, (1, -2), True, (op,), (), 0)
            drawn.append(np.empty((3, 40, 40), np.uint8))
            draw(pixels, view, _KNOWN_RECIPE, drawn[-1])
    return b"".join(planes.tobytes() for planes in drawn)
