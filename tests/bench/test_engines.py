"""The proof that kernels draw Pillow's pixels, at a small size."""

import numpy as np
import pytest

from bench.proofs import engines
from tests.support.marks import pillow_13
from tests.support.pictures import every_kind


@pillow_13
@pytest.mark.parametrize("size", [24, 225])
def test_whole_views_of_every_kind_of_picture_are_equal(size: int) -> None:
    """Small size of bench/proofs/engines.py."""
    views = 16 * len(every_kind())
    by_pil, by_kernels = engines.digests(size, views, "pil"), engines.digests(size, views, "kernels")
    assert np.array_equal(by_pil, by_kernels)
    assert len(np.unique(by_pil)) > views / 2
