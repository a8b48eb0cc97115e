"""What a codec loses of a teacher's answers: KL(teacher || stored) in nats, at the temperatures that students distil at."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from pipeline.cache.codec import bytes_per_view, codecs_for, through_codec
from pipeline.cache.layout import CacheConfig, Store
from pipeline.cache.pool import note
from pipeline.runtime import units
from pipeline.runtime.config import read_yaml


@dataclass(frozen=True)
class CodecLoss:
    """Means over ``rows`` answers: ``kl`` in nats by temperature, ``argmax``: the share whose largest logit stays it."""

    codec: str
    rows: int
    kl: dict[float, float]
    argmax: float

    def __str__(self) -> str:
        found = ", ".join(f"{nats:.2g} at tau {tau:g}" for tau, nats in self.kl.items())
        return f"{found}; argmax kept {self.argmax:.1%}"

    @property
    def event(self) -> Mapping[str, Any]:
        """As a line of the pool's log."""
        return {"event": "fidelity", **asdict(self), "kl": {f"{tau:g}": nats for tau, nats in self.kl.items()}}


def loss_of(codec: str, logits: np.ndarray, temperatures: Sequence[float]) -> CodecLoss | None:
    """What ``codec`` loses of ``logits`` float32 (n, C); None for a codec that stores none."""
    kept = through_codec(codec, logits[None]).logits
    if kept is None:
        return None
    kl = {tau: float(codec_divergence(logits, kept[0], tau).mean()) for tau in temperatures}
    return CodecLoss(codec, len(logits), kl, float((kept[0].argmax(-1) == logits.argmax(-1)).mean()))


def codec_divergence(logits: np.ndarray, other: np.ndarray, tau: float) -> np.ndarray:
    """KL(softmax(logits / tau) || softmax(other / tau)) in nats, float64 (n,); infinite where ``other`` has a class at
    minus infinity."""
    p, q = (log_softmax(of.astype(np.float64) / tau, -1) for of in (logits, other))
    return (np.exp(p) * (p - q)).sum(-1)


def next_codec(codec: str, classes: int) -> str | None:
    """The smallest codec that takes more bytes than ``codec``; None for the largest."""
    size = {name: bytes_per_view(name, classes) for name in codecs_for(classes)}
    larger = [name for name in size if size[name] > bytes_per_view(codec, classes)]
    return min(larger, key=size.__getitem__, default=None)


def losses(pool: Store, config: CacheConfig, logits: np.ndarray, temperatures: Sequence[float]) -> str:
    """What a cache's codec, and the next larger one, lose of answers (n, C), as a line each; the pool's log keeps it."""
    layout, lines = pool.layout, []
    larger = next_codec(config.codec, layout.classes)
    for name, codec in ((f"codec {config.codec}", config.codec), (f"next larger codec, {larger}", larger)):
        loss = loss_of(codec, logits, temperatures) if codec is not None else None
        if loss is not None:
            note(pool, loss.event)
            size = bytes_per_view(loss.codec, layout.classes)
            whole = units.size(size * layout.samples * config.views)
            lines.append(f"{name}: {size} bytes per view, {whole} in all; {loss}")
    return "\n".join(["what is lost of this teacher, as KL(teacher || stored) in nats:", *lines])


def temperatures_of(params: Path, cache: str) -> tuple[float, ...]:
    """1, and those of the soft students of params.yaml that name the cache. They are read as plain data and decide
    nothing: a cache serves students that nobody has thought of yet, so no ``params:`` of dvc.yaml names them."""
    students = read_yaml(params).get("students")
    found = {1.0}
    for entry in students.values() if isinstance(students, dict) else ():
        if isinstance(entry, dict) and entry.get("cache") == cache and entry.get("distillation") == "soft":
            tau = entry.get("tau", 1.0)
            found |= {float(tau)} if isinstance(tau, int | float) and tau > 0 else set()
    return tuple(sorted(found))
