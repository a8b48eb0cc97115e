"""Draws: numbers that are a function of the key alone."""

import hashlib
import struct

import numpy as np
import pytest

from pipeline.views.chance import Draws


def words(count: int, *key: int | str | bytes) -> list[int]:
    """The stream's definition, written down a second time."""
    parts = [b"s" + part.encode() if isinstance(part, str) else b"i%d" % part for part in key]
    seed = hashlib.blake2b(b"".join(struct.pack("<I", len(part)) + part for part in parts), digest_size=32).digest()
    blocks = [hashlib.shake_128(seed + struct.pack("<I", i)).digest(384) for i in range(-(-count // 96))]
    return [word for block in blocks for word in struct.unpack("<96I", block)][:count]


@pytest.mark.parametrize("before", [0, 1, 93, 94, 95, 96, 97, 191])
def test_doubles_and_whole_numbers_take_the_next_two_words_also_across_blocks(before: int) -> None:
    expected = words(before + 4, "key", 7)
    draws = Draws("key", 7)
    assert [draws.word() for _ in range(before)] == expected[:before]
    first, second, third, fourth = expected[before:]
    assert draws.uniform() == ((first << 21) | (second >> 11)) * 2.0**-53
    assert draws.below(1000) == ((third << 32 | fourth) * 1000) >> 64


def test_kinds_of_a_key_are_told_apart_and_numpys_numbers_are_pythons() -> None:
    assert len({Draws(*key).word() for key in ((1,), ("1",), (b"1",), ("s1",), (11,), (1, 1))}) == 6
    assert Draws(np.int64(5), "a").word() == Draws(5, "a").word() == words(1, 5, "a")[0]
    assert Draws("\udcff").word() == Draws("\udcff").word()  # a file's name that is no UTF-8
