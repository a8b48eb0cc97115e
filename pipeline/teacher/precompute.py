"""The teacher stage: run the teacher over views and commit its answers part by part.

Any number of processes may work on one pool, in any order, twice, with some killed: a part is published by the first
commit that is whole, and every other job moves on. Reading, predicting and writing overlap and are timed apart.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from pipeline.base.constraints import require_view_range
from pipeline.base.sums import require_sums
from pipeline.cache.arrays import PartRows
from pipeline.cache.fidelity import losses, temperatures_of
from pipeline.cache.graft import graft
from pipeline.cache.identity import cache_identity
from pipeline.cache.layout import Layout, NamedCache, Part, Store, committed, is_committed, layout_of
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.publish import require_same_cache
from pipeline.cache.teacher_answers_canary import note_canaries, rounds_differently
from pipeline.data.shards import Shards
from pipeline.runtime.config import load
from pipeline.runtime.errors import Interrupted, RetryError, UsageError
from pipeline.runtime.machine import GRACE, StopSignal, device_name, rank, world_size
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.memory import enough_memory
from pipeline.runtime.progress import note_saved, progress, say
from pipeline.runtime.text import clipped, whole_number
from pipeline.runtime.watchdog import beat, watched
from pipeline.runtime.work import Work
from pipeline.teacher.canary import answers_canary
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.label import label_visit, label_visits
from pipeline.teacher.model import Teacher
from pipeline.views.choose import Visit
from pipeline.views.drawn import draw_visit_here
from pipeline.views.places import drawer
from pipeline.views.recipe import Recipe
from pipeline.views.ring import ring_size
from pipeline.views.tasks import AlsoOnCpu
from pipeline.views.workers import read_visits

T = TypeVar("T")


@dataclass(frozen=True)
class LabelledCache:
    """A cache of params.yaml and the teacher that labels it. ``temperatures``: at which it is said what the codec loses."""

    cache: NamedCache
    teacher: TeacherConfig
    temperatures: tuple[float, ...] = (1.0,)

    @classmethod
    def load(cls, params: Path, name: str) -> "LabelledCache":
        cache = NamedCache.load(params, name)
        teacher = load(params, f"teachers.{cache.config.teacher}", TeacherConfig)
        return cls(cache, teacher, temperatures_of(params, name))


@dataclass(frozen=True)
class Share:
    """Job ``index`` of ``count``, counted from 1, of the parts in these shards and views (None: all)."""

    index: int = 1
    count: int = 1
    shards: range | None = None
    view_range: range | None = None

    @classmethod
    def parse(cls, text: str, shards: str | None = None, views: str | None = None) -> "Share":
        index, _, count = map(whole_number, text.partition("/"))
        if index is None or count is None or not 1 <= index <= count:
            shown = clipped(repr(text), 60)
            raise UsageError(f"--share: expected i/n with 1 <= i <= n, for example 1/8, found {shown}")
        only_shards, only_views = _parse_range(shards, "--only-shards"), _parse_range(views, "--only-views")
        return cls(index, count, only_shards, only_views)

    @property
    def whole(self) -> bool:
        """Whether this one process is for all parts, and so may publish."""
        return self.count == world_size() == 1 and self.shards is None and self.view_range is None

    def of_rank(self, rank: int, world: int) -> "Share":
        return replace(self, index=(self.index - 1) * world + rank + 1, count=self.count * world)


def _parse_range(text: str | None, flag: str) -> range | None:
    """``a:b`` as range(a, b); None stays None. Raises UsageError."""
    if text is None:
        return None
    low, _, high = map(whole_number, text.partition(":"))
    if low is None or high is None or not low < high:
        shown = clipped(repr(text), 60)
        raise UsageError(f"{flag}: expected first:end with first < end, for example 0:60, found {shown}")
    return range(low, high)


@dataclass(frozen=True)
class Summary:
    """What a run did; seconds are of this process, and the three overlap."""

    parts: int
    views: int
    read_wait_s: float
    predict_s: float
    write_s: float
    total_s: float


def select(layout: Layout, views: int, share: Share) -> list[Part]:
    """The parts (g, s) of views 0..V-1 that this job is for, lower views first."""
    group, chosen = layout.group, share.view_range
    if chosen:
        require_view_range(chosen, group)
    parts = [
        (g, s)
        for g, s in layout.parts(views)
        if (share.shards is None or s in share.shards) and (chosen is None or g * group in chosen)
    ]
    if not parts:
        raise UsageError(
            f"--only-shards and --only-views leave no whole part: there are {layout.shards} shards, and view groups of "
            f"{group} views up to {views}"
        )
    return parts[share.index - 1 :: share.count]


def fill(
    pool: Store,
    parts: list[Part],
    shards: Shards,
    recipe: Recipe,
    teacher: Teacher,
    workers: int,
    stop: StopSignal | None = None,
) -> Summary:
    """Labels and commits those of ``parts`` that nobody has committed.

    Raises RetryError (75) when told to stop, after the part in work, or without it if that takes more than 20 s;
    IntegrityError for damaged shards or a teacher that gives NaN; OSError on a full disk.
    """
    # Which parts nobody has committed.
    layout, repeats = pool.layout, views_per_visit(pool.layout.group)
    done = committed(pool)
    todo = [part for part in parts if part not in done]
    if len(todo) < len(parts):
        say(f"{len(parts) - len(todo)} of {len(parts)} parts are already committed")
    blocks = {s: list(of) for s, of in groupby(shards.blocks, lambda block: block.shard)}
    coming: deque[Part] = deque()

    def visits() -> Iterator[Visit]:
        for g, s in todo:
            if (stop and stop.name) or is_committed(pool, (g, s)):
                continue
            coming.append((g, s))
            for block in blocks[s]:
                for first in layout.views_of(g)[::repeats]:
                    yield Visit(block.index, first, repeats, 0)

    # Reading, predicting and writing, each timed apart.
    start = time.perf_counter()
    also = AlsoOnCpu(shards, recipe) if drawer(recipe) else None
    write = 0.0
    finished = views = 0
    current: PartRows | None = None
    left = 0  # visits that ``current`` still lacks
    pending: Future[float] | None = None
    with (
        enough_memory(block=shards.block_size, group=layout.group, workers=workers),
        ThreadPoolExecutor(1) as writer,
        closing(read_visits(shards, recipe, visits(), repeats, workers, also)) as drawn_visits,  # ends if a write fails
        watched("precompute"),
        progress("precompute", len(todo), "parts") as tick,
        suppress(Interrupted),
    ):
        read = _Timed(drawn_visits)
        labelled = _Timed(label_visits(teacher, recipe, read))
        for drawn, logits in labelled:
            # A visit goes into its part, a whole part to the writer.
            beat()
            if current is None:
                g, s = coming.popleft()
                current = PartRows.empty(layout, (g, s), shards.hashes[s])
                left = layout.blocks(s) * (layout.group // repeats)
            current.put(layout, drawn.block, drawn.first_view, logits, drawn.digests)
            left -= 1
            if left == 0:
                write += pending.result() if pending else 0.0
                pending = writer.submit(_commit, pool, current)
                finished, views = finished + 1, views + current.hard.size
                current = None
                tick()
            if stop and stop.waited() > GRACE:
                break
    write += pending.result() if pending else 0.0
    total = time.perf_counter() - start
    if stop and stop.name:
        raise RetryError(f"stopped by {stop.name} after {finished} whole parts; run the same command to go on")
    return Summary(finished, views, read.seconds, labelled.seconds - read.seconds, write, total)


class _Timed(Iterator[T]):
    """The items of ``source``; ``seconds``: how long they were waited for."""

    def __init__(self, source: Iterator[T]) -> None:
        self.source, self.seconds = source, 0.0

    def __next__(self) -> T:
        before = time.perf_counter()
        try:
            return next(self.source)
        finally:
            self.seconds += time.perf_counter() - before


def _commit(pool: Store, rows: PartRows) -> float:
    """Publishes a part (or finds that another job has); seconds that it took. The writer holds two parts at most."""
    before = time.perf_counter()
    commit_part(pool, rows)
    note_saved()
    return time.perf_counter() - before


def label_share(
    made: LabelledCache, work: Work, pool_root: Path, share: Share, new_cache: bool, workers: int
) -> tuple[Store, Summary]:
    """Opens the pool's cache of this identity and fills this job's share of it. Raises before any work if something
    stands in the cache's place that publishing would refuse to replace."""
    recipe, config = made.cache.recipe, made.cache.config
    weights = work.teacher_weights(config.teacher)
    require_sums(work.split("train") / "manifest.json", weights)
    device, shards = pick_device(), Shards.open(work.split("train"))
    layout = layout_of(shards, config)
    say(
        f"precompute: {ring_size(shards, recipe, views_per_visit(layout.group), workers)}"
    )  # refused here if there is no room
    teacher = Teacher.load(made.teacher, weights, layout.classes, recipe, shards.block_size, device)
    identity = cache_identity(shards, recipe, layout, teacher.identity(), device)
    pool = open_pool(pool_root, identity, new_cache)
    if share.whole:
        require_same_cache(work.cache(made.cache.name), pool)
    mine = select(layout, config.views, share.of_rank(rank(), world_size()))
    graft(pool_root, pool, mine)
    say(f"precompute: {len(mine)} parts on {device_name()}")
    if not committed(pool).issuperset(mine):
        own = answers_canary(teacher, recipe)
        if told := rounds_differently(pool.path, own):
            say(f"warning: {told}")
        note_canaries(pool, [own])
        block = next(block for block in shards.blocks if block.shard == mine[0][1])
        drawn = draw_visit_here(shards, recipe, block, layout.views_of(mine[0][0])[0], 1)
        say(losses(pool, config, label_visit(teacher, recipe, drawn)[0].numpy(), made.temperatures))
    summary = fill(pool, mine, shards, recipe, teacher, workers, StopSignal())
    say(
        f"labelled {summary.views} views in {summary.parts} parts, {summary.total_s:.1f} s: waiting for views "
        f"{summary.read_wait_s:.1f} s, teacher {summary.predict_s:.1f} s, writing {summary.write_s:.1f} s (overlapped)"
    )
    return pool, summary


def views_per_visit(group: int) -> int:
    """How many views are drawn of an image that was decoded once; it divides G and changes speed only, no byte."""
    return next(r for r in (3, 2, 1) if group % r == 0)
