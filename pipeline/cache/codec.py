"""Targets: what a teacher says about views, and the codecs that a teacher cache stores it in.

| codec | bytes per view (C classes) | KL at tau 1, tau 3 (demo teacher) | for |
|---|---|---|---|
| none | 0 | | hard distillation (DeiT's best): the hard label alone, 2 bytes before compression |
| u8   | C + 4 | 2.5e-6, 9.8e-7 | soft distillation: a row of bytes with its own offset and step |
| f16  | 2 C | 2.7e-8, 7.1e-9 | soft distillation, archival |

``bench/codecs.py`` measures KL(teacher || stored), in nats; with 1,000 simulated classes u8 has 3.5e-5 and 1.4e-5.
Every codec has at most one stored array, and the hard label is always taken from the full-precision logits: rounding
makes ties (u8 flips the argmax of 0.1 % of rows).
"""

from typing import Literal

import numpy as np

from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.views.visits import Targets

CODEC_VERSION = 1  # raised when the stored bytes of the same logits, or their decoding, change
MAX_CLASSES = 65_534  # 65535 is the fill value of the hard labels
HALF_MAX = 65_504.0  # largest finite float16
CodecName = Literal["none", "u8", "f16"]
CODECS: tuple[CodecName, ...] = ("none", "u8", "f16")


def check_codec(codec: str, classes: int) -> None:
    """Raises UsageError for an unknown codec or a number of classes that uint16 labels can't hold."""
    if codec not in CODECS:
        raise UsageError(f"codec: expected one of {', '.join(CODECS)}, found {codec!r}")
    if not 2 <= classes <= MAX_CLASSES:
        raise UsageError(f"classes: a teacher cache holds 2 to {MAX_CLASSES} (uint16 labels), found {classes}")


def stored_width(codec: str, classes: int) -> int:
    """Last dimension of the stored array: 0 for none, C + 4 (uint8), C (float16)."""
    return {"none": 0, "u8": classes + 4, "f16": classes}[codec]


def stored_dtype(codec: str) -> np.dtype | None:
    return {"none": None, "u8": np.dtype("u1"), "f16": np.dtype("<f2")}[codec]


def bytes_per_view(codec: str, classes: int) -> int:
    """Bytes of logits per view of one sample, before the container's checksums."""
    dtype = stored_dtype(codec)
    return 0 if dtype is None else stored_width(codec, classes) * dtype.itemsize


def hard_labels(logits: np.ndarray) -> np.ndarray:
    """Argmax of full-precision logits float32 (..., C) as uint16 (...); ties go to the smallest class.

    Raises IntegrityError for NaN or infinity: a teacher that returns one is broken.
    """
    _check_finite(logits)
    if logits.shape[-1] > MAX_CLASSES:
        raise UsageError(f"classes: at most {MAX_CLASSES} fit uint16 hard labels, found {logits.shape[-1]}")
    return logits.argmax(-1).astype(np.uint16)


def encode(codec: str, logits: np.ndarray) -> np.ndarray | None:
    """Logits float32 (..., C) as stored: None, uint8 (..., C + 4) or float16 (..., C).

    u8 keeps, per row, the float16 offset (the minimum rounded down) and the float16 step (a 255th of what remains up to
    the maximum, rounded up) in its last four bytes, so that nothing is clipped. Raises IntegrityError for values that
    float16 can't hold.
    """
    if codec == "none":
        return None
    _check_finite(logits)
    top = float(np.abs(logits).max(initial=0.0))
    if top > HALF_MAX:
        raise IntegrityError(f"teacher logits: magnitude {top:g} does not fit codec {codec} (at most 65504)")
    if codec == "f16":
        return logits.astype("<f2")
    offset = _half(logits.min(-1, keepdims=True), np.float16(-np.inf))
    shifted = logits - offset.astype(np.float32)
    step = _half(shifted.max(-1, keepdims=True) / np.float32(255.0), np.float16(np.inf))
    divisor = np.where(step > 0, step, np.float16(1.0)).astype(np.float32)
    levels = np.clip(np.rint(shifted / divisor), 0, 255).astype(np.uint8)
    scale = np.concatenate([offset, step], -1).astype("<f2").view(np.uint8)
    return np.concatenate([levels, scale], -1)


def decode(codec: str, stored: np.ndarray) -> np.ndarray:
    """Stored rows as float32 (..., C). u8: offset + level * step, a multiply and an add, each rounded."""
    if codec == "f16":
        return stored.astype(np.float32)
    if codec != "u8":
        raise UsageError(f"codec {codec!r} stores no logits")
    scale = np.ascontiguousarray(stored[..., -4:]).view("<f2").astype(np.float32)
    values = stored[..., :-4].astype(np.float32)
    values *= scale[..., 1:]
    values += scale[..., :1]
    return values


def through_codec(codec: str, logits: np.ndarray) -> Targets:
    """A live teacher's logits float32 (r, n, C) as a cache returns them: the bits of a write and a read."""
    stored = encode(codec, logits)
    return Targets(hard_labels(logits), None if stored is None else decode(codec, stored))


def _half(values: np.ndarray, towards: np.float16) -> np.ndarray:
    """``values`` float32 rounded to float16, never away from ``towards`` (minus or plus infinity)."""
    half = values.astype(np.float16)
    back = half.astype(np.float32)
    wrong = back > values if towards < 0 else back < values
    return np.where(wrong, np.nextafter(half, towards), half)


def _check_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        bad = int(logits.size - np.isfinite(logits).sum())
        raise IntegrityError(f"teacher logits: {bad} of {logits.size} values are NaN or infinite; nothing stored")
