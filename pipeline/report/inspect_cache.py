"""What a teacher cache holds, in numbers that a person can judge it by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import difference
from pipeline.base.files import digest
from pipeline.cache.layout import file_key
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Shards
from pipeline.runtime import units
from pipeline.runtime.progress import progress


def inspect_cache(path: Path, shards: Shards | None, most_blocks: int = 2000) -> dict[str, Any]:
    """Identity, coverage, bytes and statistics of the cache at ``path`` as plain JSON data.

    ``shards`` (the split that was labelled) adds ``top1``: the teacher's hard label against the label, in percent of
    the views read; on mixed views it is the agreement with the sample's own label. Reads at most ``most_blocks``
    blocks, evenly spread over the cache. Raises UsageError, IdentityError (other shards), IntegrityError.
    """
    cache = open_cache(path)
    if shards is not None:
        same = {"shards": list(shards.hashes), "classes": list(shards.classes)}
        difference.require_same(cache.identity | same, cache.identity, str(path), "give the shards that it labels")
    shape, parts = cache.layout, sorted(cache.parts)
    sizes = {name: sum((cache.path / file_key(name, part)).stat().st_size for part in parts) for name in shape.arrays}
    rows = sum(shape.group * shape.rows(s) for _, s in parts)
    teacher = cache.identity["teacher"]
    return {
        "path": str(path),
        "identity": digest(cache.identity),
        "teacher": {key: teacher[key] for key in ("arch", "weights", "precision") if key in teacher},
        "recipe": cache.identity["recipe"],
        "classes": len(cache.identity["classes"]),
        "samples": shape.samples,
        "views": cache.views,
        "codec": shape.codec,
        "parts": len(parts),
        "coverage_percent": 100.0 * rows / (shape.samples * cache.views),
        "bytes": sizes | {"commits": sum(file.stat().st_size for file in (cache.path / "commits").rglob("*.json"))},
        "bytes_per_view": {name: size / max(rows, 1) for name, size in sizes.items()},
        "answers": _answers(cache, shards, most_blocks),
    }


def readable_cache(found: Mapping[str, Any]) -> dict[str, Any]:
    """What ``inspect`` found, for people: bytes with their units, numbers of four digits, nothing that is not known."""
    sizes = {name: units.size(count) for name, count in found["bytes"].items()}
    per_view = {name: units.size(count) for name, count in found["bytes_per_view"].items()}
    return dict(units.readable({**found, "bytes": sizes, "bytes_per_view": per_view}))


def _answers(cache: Cache, shards: Shards | None, most: int) -> dict[str, Any]:
    """Histogram and entropy of the hard labels, mean entropy of the soft targets (nats), agreement with the labels."""
    shape = cache.layout
    per_shard = shape.shard_size // shape.block
    where = [
        (cache.block(s * per_shard + number), view)
        for g, s in sorted(cache.parts)
        for number in range(shape.blocks(s))
        for view in shape.views_of(g)
    ]
    where = where[:: max(1, len(where) // most)]
    counts = np.zeros(shape.classes, np.int64)
    right = seen = 0
    entropy = 0.0
    with progress("inspect", len(where), "blocks") as tick:
        for block, view in where:
            targets = cache.read(block, view, 1)
            counts += np.bincount(targets.hard[0], minlength=shape.classes)
            seen += block.samples
            if shards is not None:
                right += int((targets.hard[0] == shards.labels(shards.blocks[block.index])).sum())
            if targets.logits is not None:
                entropy += float(_entropy(targets.logits[0].astype(np.float64)).sum())
            tick()
    shares = counts[counts > 0] / max(seen, 1)
    return {
        "views_read": seen,
        "top1": 100.0 * right / seen if shards is not None and seen else None,
        "hard_label_entropy": float(-(shares * np.log(shares)).sum()),
        "soft_target_entropy": entropy / seen if shape.codec != "none" and seen else None,
        "histogram": {name: int(n) for name, n in zip(cache.identity["classes"], counts)},
    }


def _entropy(logits: np.ndarray) -> np.ndarray:
    """Entropy in nats of softmax(logits): (n, C) -> (n,)."""
    shifted = logits - logits.max(1, keepdims=True)
    shares = np.exp(shifted)
    total = shares.sum(1, keepdims=True)
    return (np.log(total) - (shares * shifted).sum(1, keepdims=True) / total)[:, 0]
