"""Conditions under which a test says something."""

import PIL
import pytest

pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 13 defines the pixels, and this one is older"
)
