"""Which implementation makes pixels on this machine: compiled kernels, Pillow, or a GPU. All give the same bits.

The definition is the arithmetic of Pillow 13 on x86-64; only another Pillow differs, an older one or that for aarch64, whose
compiler fused multiplications with additions, and then the others are right. ``cuda`` draws views on the GPU that trains;
what it leaves to a CPU, compiled kernels do.
"""

import os
from functools import cache

from pipeline.runtime.errors import UsageError

ENGINES = ("kernels", "pil", "cuda")
_FOR_TESTS = "cuda-on-cpu"  # the code of ``cuda`` without a GPU: its kernels as a C++ compiler makes them


class Unavailable(Exception):
    """Why a GPU can't draw here, as part of a sentence."""


def _asked() -> str:
    """DISTIL_ENGINE, "" if it is unset. Raises UsageError for an unknown value."""
    asked = os.environ.get("DISTIL_ENGINE") or ""
    if asked not in ("", _FOR_TESTS, *ENGINES):
        raise UsageError(f"DISTIL_ENGINE: expected {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, found {asked!r}")
    return asked


def kernels() -> bool:
    """Whether kernels make the pixels on a CPU: where numba can be imported, unless DISTIL_ENGINE says ``pil``.

    Raises UsageError for an unknown value, and if DISTIL_ENGINE asks for what needs numba and it can't be imported.
    """
    asked = _asked()
    if asked == "pil":
        return False
    reason = _no_numba()
    if asked and reason:
        raise UsageError(f"DISTIL_ENGINE is {asked}, but numba can't be imported ({reason}); install it, or unset it")
    return not reason


def on_device(kind: str) -> bool:
    """Whether the device, of torch's ``kind``, is asked to draw views. Raises UsageError where it is no GPU."""
    asked = _asked()
    if asked == "cuda" and kind != "cuda":
        raise UsageError(f"DISTIL_ENGINE is cuda, but the device is {kind}; unset it, or run where there is a GPU")
    return asked in ("cuda", _FOR_TESTS) and kernels()


@cache
def _no_numba() -> str:
    """Why numba can't be used; "" if it can. It refuses a NumPy that it does not know with an ImportError."""
    try:
        import pipeline.base.compiled  # noqa: F401  # only whether it can be imported
    except ImportError as error:
        return str(error)
    return ""
