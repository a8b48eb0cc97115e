"""A fake teacher for proofs of the cache: rows are a function of (part, attempt), fast and of no use to anyone."""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.arrays import PartRows
from pipeline.cache.codec import codec_version, hard_labels, pack, through_codec
from pipeline.cache.commit import Reach, unwatched
from pipeline.cache.layout import Layout, Part, Store
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Block
from pipeline.views.choose import Targets

# What ``cache.commit`` calls in its order, where a kill may come.
STEPS = (
    "begun",
    "wrote hard",
    "wrote logits",
    "synced files",
    "wrote record",
    "linked",
    "synced link",
    "rolled hard",
    "rolled logits",
    "synced roll",
    "cleaned",
)


def identity(shape: Layout, **changes: object) -> dict[str, Any]:
    """An identity with every kind of field that a real one has."""
    return {
        "teacher": {"arch": "fake", "weights": "0" * 64, "precision": "fp32", "batch": shape.block},
        "recipe": {"seed": 0, "size": 8, "crop": "random_resized", "flip": 0.5},
        "engine": "pil",
        "canary": "c0ffee",
        "views_version": 1,
        "codec_version": codec_version(shape.codec),
        "shards": [f"{s:064x}" for s in range(shape.shards)],
        "classes": [f"class {c}" for c in range(shape.classes)],
        "layout": asdict(shape),
        **changes,
    }


def logits(shape: Layout, part: Part, attempt: int = 0) -> np.ndarray:
    """float32 (G, n, C); another attempt gives other logits everywhere."""
    chance = np.random.default_rng([*part, attempt])
    return chance.normal(0, 4, (shape.group, shape.rows(part[1]), shape.classes)).astype(np.float32)


def pixels(shape: Layout, part: Part) -> list[list[str]]:
    """Digests (G, blocks) of the pixels that the fake teacher saw."""
    g, s = part
    views = range(g * shape.group, (g + 1) * shape.group)
    return [[f"{(view << 40) + (s << 16) + block:016x}" for block in range(shape.blocks(s))] for view in views]


def commit(pool: Store, part: Part, attempt: int = 0, reach: Reach = unwatched) -> bool:
    rows = logits(pool.layout, part, attempt)
    encoded = pack(pool.layout.codec, rows)
    source = pool.identity["shards"][part[1]]
    hard = hard_labels(rows)
    return commit_part(pool, PartRows(part, hard, encoded, pixels(pool.layout, part), source), reach)


def filled(
    root: Path, shape: Layout, views: int, changes: Mapping[str, object] | None = None, attempt: int = 0
) -> Store:
    """A pool with every part of V views committed."""
    pool = open_pool(root, identity(shape, **(changes or {})))
    for part in shape.parts(views):
        commit(pool, part, attempt)
    return pool


def blocks(shape: Layout) -> list[Block]:
    found: list[Block] = []
    for s in range(shape.shards):
        for number in range(shape.blocks(s)):
            first = number * shape.block
            found.append(Block(len(found), s, first, s * shape.shard_size + first, shape.block_rows(s, number)))
    return found


def expected(shape: Layout, block: Block, view: int, attempt: int = 0) -> Targets:
    """What a reader must get for one view of a block: hard (1, n), logits (1, n, C)."""
    rows = logits(shape, (view // shape.group, block.shard), attempt)
    rows = rows[view % shape.group, block.first : block.first + block.samples]
    return through_codec(shape.codec, rows[None])


def same(a: Targets, b: Targets) -> bool:
    if (a.logits is None) != (b.logits is None) or not np.array_equal(a.hard, b.hard):
        return False
    return a.logits is None or b.logits is None or np.array_equal(a.logits, b.logits)


def attempts_of(pool: Store, part: Part, candidates: Iterable[int]) -> set[int]:
    """The attempts whose rows a committed part holds, block by block; a sound part has exactly one."""
    cache = open_cache(pool.path, pool.identity)
    group, possible = pool.layout.group, set(candidates)
    for block in blocks(pool.layout):
        if block.shard != part[1]:
            continue
        for view in range(part[0] * group, (part[0] + 1) * group):
            found = cache.read(block, view)
            possible = {a for a in possible if same(found, expected(pool.layout, block, view, a))}
    return possible


class Stopped(BaseException):
    """Stands for SIGKILL inside one process: nothing is cleaned up after it."""


def stop_at(pool: Store, part: Part, step: str, attempt: int = 0) -> None:
    """Leaves on disk what a kill at ``step`` leaves."""
    snapshot = pool.path.parent / "snapshot"

    def reach(now: str) -> None:
        if now == step:
            shutil.copytree(pool.path, snapshot)
            raise Stopped

    with suppress(Stopped):
        commit(pool, part, attempt, reach)
    shutil.rmtree(pool.path)
    snapshot.rename(pool.path)
