"""Codecs: how a teacher cache stores the teacher's answers on views.

| codec | bytes per view, 1,000 classes | KL at tau 1, 3, 10 (EfficientNet-Lite0 on photographs) | for |
|---|---|---|---|
| none | 0 | | hard distillation (DeiT's best): the hard label alone, 2 bytes before compression |
| topK | 52 (K = 16), 91 (32) | .23, .069, .0064; .13, .052, .0052 | soft distillation: 7/4 K classes, one value for the rest |
| u8 | 1,004 | 4.9e-5, 8.2e-6, 7.5e-7 | soft distillation: a row of bytes with its own offset and step |
| f16 | 2,000 | 4.3e-7, 9.4e-9, 4.5e-10 | soft distillation, archival |

``bench/measure/codecs.py`` measures KL(teacher || unpacked), in nats, on these and on real teachers. Every codec has at
most one stored array. The hard label is always the argmax of the full-precision logits: rounding makes ties (u8 flips
the argmax of 0.1 % of rows; topK keeps it).
"""

import re
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from pipeline.base.constraints import MAX_CLASSES
from pipeline.cache import topk
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.views.choose import Targets

HALF_MAX = 65_504.0  # largest finite float16
K_RANGE = range(4, 256)
CODECS = ("none", "u8", "f16", "top8", "top16", "top32", "top128")  # and every other K: these are measured and shown
_KNOWN = "none, u8, f16, or topK with K from 4 to 255, for example top16"


def top_k(codec: str) -> int | None:
    """K of codec topK, None for another."""
    found = re.fullmatch(r"top([1-9][0-9]{0,2})", codec, re.ASCII)
    return int(found[1]) if found and int(found[1]) in K_RANGE else None


def _known(codec: str) -> str:
    if codec not in ("none", "u8", "f16") and top_k(codec) is None:
        raise ValueError(f"expected {_KNOWN}, found {codec!r}")
    return codec


CodecName = Annotated[str, AfterValidator(_known)]


def codecs_for(classes: int) -> list[str]:
    """Those of ``CODECS`` that go with this number of classes."""
    return [codec for codec in CODECS if (top_k(codec) or 0) < classes]


def codec_version(codec: str) -> int:
    """A number in a cache's identity, to be raised when the same logits pack to other bytes or unpack to other values."""
    return {"none": 1, "u8": 1, "f16": 1}.get(codec, topk.VERSION)


def require_codec(codec: str, classes: int) -> None:
    """Raises UsageError for an unknown codec, and for a number of classes that it or a uint16 label can't hold."""
    try:
        k = top_k(_known(codec))
    except ValueError as error:
        raise UsageError(f"codec: {error}") from None
    if not 2 <= classes <= MAX_CLASSES:
        raise UsageError(f"classes: a teacher cache holds 2 to {MAX_CLASSES} (uint16 labels), found {classes}")
    if k is not None and k >= classes:
        raise UsageError(
            f"codec {codec}: K must be below the number of classes, found {classes}; choose a smaller K, or u8 "
            f"({classes + 4} bytes per view)"
        )


def packed_width(codec: str, classes: int) -> int:
    """Last dimension of the stored array: 0 for none, C + 4 (u8), C (f16), topK's bytes."""
    k = top_k(codec)
    return {"none": 0, "u8": classes + 4, "f16": classes}[codec] if k is None else topk.row_of(k, classes).width


def packed_dtype(codec: str) -> np.dtype | None:
    """The type of a codec's packed logits: little-endian float16, or bytes; None where it stores none."""
    return {"none": None, "f16": np.dtype("<f2")}.get(codec, np.dtype("u1"))


def bytes_per_view(codec: str, classes: int) -> int:
    """Bytes of logits per view of one sample, before the container's checksums."""
    dtype = packed_dtype(codec)
    return 0 if dtype is None else packed_width(codec, classes) * dtype.itemsize


def hard_labels(logits: np.ndarray) -> np.ndarray:
    """Argmax of full-precision logits float32 (..., C) as uint16 (...); ties go to the smallest class.

    Raises IntegrityError for NaN or infinity: a teacher that returns one is broken.
    """
    _magnitude(logits)
    if logits.shape[-1] > MAX_CLASSES:
        raise UsageError(f"classes: at most {MAX_CLASSES} fit uint16 hard labels, found {logits.shape[-1]}")
    return logits.argmax(-1).astype(np.uint16)


def pack(codec: str, logits: np.ndarray) -> np.ndarray | None:
    """Packs logits float32 (..., C): None, uint8 (..., C + 4), float16 (..., C) or topK's rows uint8 (..., W).

    u8 keeps, per row, the float16 offset (the minimum rounded down) and the float16 step (a 255th of what remains up to
    the maximum, rounded up) in its last four bytes, so that nothing is clipped. Raises IntegrityError for values that
    float16 can't hold.
    """
    if codec == "none":
        return None
    top = _magnitude(logits)
    if top > HALF_MAX:
        raise IntegrityError(f"teacher logits: magnitude {top:g} does not fit codec {codec} (at most 65504)")
    if codec == "f16":
        return logits.astype("<f2")
    k = top_k(codec)
    if k is not None:
        return topk.pack(k, logits)
    offset = _half(logits.min(-1, keepdims=True), np.float16(-np.inf))
    shifted = logits - offset.astype(np.float32)
    step = _half(shifted.max(-1, keepdims=True) / np.float32(255.0), np.float16(np.inf))
    divisor = np.where(step > 0, step, np.float16(1.0)).astype(np.float32)
    levels = np.clip(np.rint(shifted / divisor), 0, 255).astype(np.uint8)
    scale = np.concatenate([offset, step], -1).astype("<f2").view(np.uint8)
    return np.concatenate([levels, scale], -1)


def unpack(codec: str, packed: np.ndarray, classes: int) -> np.ndarray:
    """Stored rows as float32 (..., C). u8: offset + level * step, a multiply and an add, each rounded.

    Raises IntegrityError for a row of topK that ``pack`` never writes.
    """
    if codec == "f16":
        return packed.astype(np.float32)
    k = top_k(codec)
    if k is not None:
        return topk.unpack(k, classes, packed)
    if codec != "u8":
        raise UsageError(f"codec {codec!r} stores no logits")
    scale = np.ascontiguousarray(packed[..., -4:]).view("<f2").astype(np.float32)
    values = packed[..., :-4].astype(np.float32)
    values *= scale[..., 1:]
    values += scale[..., :1]
    return values


def through_codec(codec: str, logits: np.ndarray) -> Targets:
    """A live teacher's logits float32 (r, n, C) as a cache would return them, to the bit."""
    packed = pack(codec, logits)
    return Targets(hard_labels(logits), None if packed is None else unpack(codec, packed, logits.shape[-1]))


def _half(values: np.ndarray, towards: np.float16) -> np.ndarray:
    """``values`` float32 rounded to float16, never away from ``towards`` (minus or plus infinity)."""
    half = values.astype(np.float16)
    back = half.astype(np.float32)
    wrong = back > values if towards < 0 else back < values
    return np.where(wrong, np.nextafter(half, towards), half)


def _magnitude(logits: np.ndarray) -> float:
    """The largest absolute value; the extremes of a row with NaN are NaN. Raises IntegrityError."""
    low, high = float(logits.min(initial=0.0)), float(logits.max(initial=0.0))
    if not np.isfinite([low, high]).all():
        bad = int(logits.size - np.isfinite(logits).sum())
        raise IntegrityError(f"teacher logits: {bad} of {logits.size} values are NaN or infinite; nothing stored")
    return max(-low, high)
