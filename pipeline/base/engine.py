"""Which implementation makes pixels on this machine: compiled kernels, or Pillow. Both give the same bits.

The definition is the arithmetic of Pillow 13 on x86-64; only with another Pillow do the two differ, and then the
kernels are right.
"""

import os
from functools import cache

from pipeline.runtime.errors import UsageError

ENGINES = ("kernels", "pil")


def kernels() -> bool:
    """Whether kernels make the pixels: where numba can be imported, unless DISTIL_ENGINE says ``pil``.

    Raises UsageError for another value, and if DISTIL_ENGINE asks for kernels and numba can't be imported.
    """
    asked = os.environ.get("DISTIL_ENGINE") or ""
    if asked not in ("", *ENGINES):
        raise UsageError(f"DISTIL_ENGINE: expected kernels or pil, found {asked!r}")
    if asked == "pil":
        return False
    reason = _no_numba()
    if asked == "kernels" and reason:
        raise UsageError(f"DISTIL_ENGINE is kernels, but numba can't be imported ({reason}); install it, or unset it")
    return not reason


@cache
def _no_numba() -> str:
    """Why numba can't be used; "" if it can. It refuses a NumPy that it does not know with an ImportError."""
    try:
        import pipeline.base.compiled  # noqa: F401  # only whether it can be imported
    except ImportError as error:
        return str(error)
    return ""
