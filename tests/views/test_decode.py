"""Decoding by the kernels: Pillow's pixels, and its refusals."""

import numpy as np
import pytest

from pipeline.data import images
from pipeline.views import decode as fast
from pipeline.views import pillow
from pipeline.views.chance import Draws
from tests.support.pictures import small_kinds

SMALL = small_kinds()


@pytest.mark.parametrize("name", SMALL)
def test_decoding_gives_pillows_pixels_and_refusals(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = SMALL[name]
    assert np.array_equal(fast.decode(data, name), pillow.decode(data, name))
    draws = Draws("damage", name)
    for _ in range(25):  # damaged, or cut off
        harmed = bytearray(data)
        for _ in range(3):
            harmed[draws.below(len(data))] = draws.below(256)
        for bad in (bytes(harmed), data[: draws.below(len(data))], data[: -1 - draws.below(8)]):
            assert outcome(fast.decode, bad) == outcome(pillow.decode, bad)
    assert capfd.readouterr().err == "", "libjpeg's warnings are not for the terminal"


def outcome(decode: object, data: bytes) -> object:
    try:
        pixels = decode(data, "x")  # type: ignore[operator]
    except images.Undecodable:
        return "refused"
    return pixels.shape, pixels.tobytes()
