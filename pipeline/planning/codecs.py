"""The codecs that a cache could have, side by side: bytes, hours, and what each loses of the teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.cache.codec import bytes_per_view, codecs_for, hard_labels, pack, unpack
from pipeline.cache.fidelity import loss_of
from pipeline.cache.layout import Layout
from pipeline.cache.records import row_digest
from pipeline.planning.pieces import Pieces
from pipeline.runtime import units
from pipeline.runtime.machine import median_seconds

HARD_BYTES = 1.3  # per view and sample: two bytes before zstd; labels that agree between views take 0.8 to 1.3


def codec_lines(costs: Mapping[str, Mapping[str, Any]], chosen: str) -> list[str]:
    """The table of ``codec_costs``, a line for each codec, and what its last columns are."""
    lines = [
        f"codec {codec:6} {units.size(found['bytes']):>9}, {units.duration(3600 * found['hours']):>12} of a core to write"
        + (f", {found['loss']}" if "loss" in found else "")
        + ("  <- this cache" if codec == chosen else "")
        for codec, found in costs.items()
    ]
    if any("loss" in found for found in costs.values()):
        return [*lines, "       nats: KL(teacher || stored), of this teacher's own answers on a few views"]
    return [
        *lines,
        "       what each loses of this teacher is shown as soon as the teacher is there: dvc repro teacher",
    ]


def bytes_of(codec: str, classes: int, views: int) -> int:
    """Of a cache of so many views of samples, about."""
    return int(views * (HARD_BYTES + bytes_per_view(codec, classes)))


def codec_costs(
    layout: Layout, views: int, logits: np.ndarray | None = None, at: Sequence[float] = (1.0,)
) -> dict[str, dict[str, Any]]:
    """What each codec that goes with C classes would cost for this many views of samples: bytes, hours of one core to pack,
    unpack and digest the rows before the disk, and what it loses of a teacher's ``logits`` (n, C) at temperatures ``at``."""
    block, classes = layout.block, layout.classes
    waves = 5 * np.sin(np.arange(block * classes, dtype=np.float32)).reshape(1, block, classes)

    def write(codec: str) -> Callable[[], object]:
        def call() -> object:
            stored, hard = pack(codec, waves), hard_labels(waves)
            rows = None if stored is None else unpack(codec, stored, classes)[0]
            return row_digest("", (0, 0), 0, 0, hard[0], rows)

        return call

    found: dict[str, dict[str, Any]] = {}
    for codec in dict.fromkeys([*codecs_for(classes), layout.codec]):
        hours = views * median_seconds(write(codec)) / block / 3600
        found[codec] = {"bytes": bytes_of(codec, classes, views), "hours": hours}
        loss = None if logits is None else loss_of(codec, logits, at)
        if loss is not None:
            found[codec] |= {"loss": str(loss), "kl": loss.kl, "argmax": loss.argmax}
    return found


def temperatures(pieces: Pieces, cache: str) -> list[float]:
    """1, and those of the soft students that learn from ``cache``."""
    soft = [of.tau for of in pieces.students.values() if of.cache == cache and of.distillation == "soft"]
    return sorted({1.0, *soft})
