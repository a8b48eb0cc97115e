"""Random numbers from a key: every random decision of the pipeline is drawn from one hash, never from a global generator.

BLAKE2b hashes the key, SHAKE-128 expands it (RFC 7693, FIPS 202): the same key gives the same numbers in every process, order,
library version and machine. A key and 96 words take about 3 us; seeding the three generators that timm uses takes 136 us.
"""

import hashlib
import math
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_WORDS = 96  # 32-bit words per block: enough for one DeiT view
_LITTLE = sys.byteorder == "little"
_LENGTH = struct.Struct("<I")


class Draws:
    """An endless stream of numbers drawn from ``key`` (any mix of int, str and bytes)."""

    __slots__ = ("_block", "_next", "_seed", "_words")

    def __init__(self, *key: int | str | bytes) -> None:
        self._seed = hashlib.blake2b(b"".join(map(_encode, key)), digest_size=32).digest()
        self._block = -1
        self._next = _WORDS
        self._words: Sequence[int] = ()

    def word(self) -> int:
        """A whole number in [0, 2**32)."""
        if self._next == _WORDS:
            self._block += 1
            data = hashlib.shake_128(self._seed + _LENGTH.pack(self._block)).digest(4 * _WORDS)
            # Looked at in place: most of the words are never needed.
            self._words = memoryview(data).cast("I") if _LITTLE else struct.unpack(f"<{_WORDS}I", data)
            self._next = 0
        self._next += 1
        return self._words[self._next - 1]

    def _double_word(self) -> int:
        """The next two words as one in [0, 2**64), the first on top; one call, since a view needs two dozen of them."""
        start = self._next
        if start > _WORDS - 2:
            return self.word() << 32 | self.word()
        self._next = start + 2
        return self._words[start] << 32 | self._words[start + 1]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A double in [low, high) with 53 random bits."""
        return low + (high - low) * ((self._double_word() >> 11) * 2.0**-53)

    def below(self, n: int) -> int:
        """A whole number in [0, n), n <= 2**32; the bias of the multiply-shift is below n / 2**64."""
        return (self._double_word() * n) >> 64

    def chance(self, probability: float) -> bool:
        """True with the given probability; 0 is never, 1 is always."""
        return self.uniform() < probability

    def normal(self, mean: float = 0.0, std: float = 1.0) -> float:
        """N(mean, std**2) by Box-Muller."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return mean + std * radius * math.cos(2.0 * math.pi * self.uniform())

    def beta(self, alpha: float) -> float:
        """Beta(alpha, alpha) as the quotient of two gamma draws."""
        a, b = self._gamma(alpha), self._gamma(alpha)
        return a / (a + b) if a + b > 0.0 else 0.5

    def _gamma(self, shape: float) -> float:
        """Gamma(shape, 1) by Marsaglia and Tsang (2000), boosted below shape 1."""
        if shape < 1.0:
            return self._gamma(shape + 1.0) * (1.0 - self.uniform()) ** (1.0 / shape)
        d = shape - 1.0 / 3.0
        c = 1.0 / math.sqrt(9.0 * d)
        while True:
            x = self.normal()
            v = (1.0 + c * x) ** 3
            if v > 0.0 and math.log(1.0 - self.uniform()) < 0.5 * x * x + d - d * v + d * math.log(v):
                return d * v

    def permutation(self, n: int) -> np.ndarray:
        """A permutation of 0..n-1, int64 (n,): the stable order of n 64-bit words of the stream."""
        data = hashlib.shake_128(self._seed + b"permutation").digest(8 * n)
        return np.argsort(np.frombuffer(data, "<u8"), kind="stable")


def _encode(part: int | str | bytes) -> bytes:
    """Length, kind and value, so that 1, "1" and b"1" are three keys and numpy's 1 is the same key as Python's."""
    if isinstance(part, str):
        value = b"s" + part.encode("utf-8", "surrogateescape")
    elif isinstance(part, bytes):
        value = b"b" + part
    else:
        return _encode_number(part)
    return _LENGTH.pack(len(value)) + value


@lru_cache(4096)
def _encode_number(part: int) -> bytes:
    value = b"i%d" % int(part)
    return _LENGTH.pack(len(value)) + value
