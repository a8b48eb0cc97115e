"""Where a student's targets come from: ``none | cached | live | auto``.

The training loop cannot tell the ways apart: live logits pass through the cache's codec, and both ways label whole
visits. Missing rows go to the live teacher, counted; damaged rows are an error, never a silent fallback.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.base.constraints import require_coverage
from pipeline.cache.codec import hard_labels, through_codec
from pipeline.cache.reader import Cache
from pipeline.data.shards import Block, Shards
from pipeline.runtime.errors import UsageError
from pipeline.runtime.text import few
from pipeline.student.config import Supervision
from pipeline.teacher.label import ask_visit
from pipeline.teacher.model import Teacher
from pipeline.training.batches import Label
from pipeline.views.chance import Draws
from pipeline.views.choose import Targets, Visit
from pipeline.views.drawn import DrawnVisit
from pipeline.views.recipe import Recipe
from pipeline.views.tasks import Lookup


@dataclass(frozen=True)
class FromCache:
    """A ``Lookup``: the targets of a visit from the cache, None where the cache has none (``partial``: auto).

    ``verify``: share of the visits whose pixels are compared with the digests of the teacher's pixels; "first_cycle"
    compares each block once. A mismatch is an IntegrityError with shard, block and view.
    """

    cache: Cache
    shards: Shards
    verify: float | Literal["first_cycle"]
    partial: bool

    def __call__(self, visit: Visit, block: Block) -> tuple[Targets | None, tuple[str, ...]]:
        views = range(visit.first_view, visit.first_view + visit.repeats)
        if self.partial and not all(self.cache.has(block, view) for view in views):
            return None, ()
        digests = tuple(self.cache.pixel_digest(block, view) for view in views) if self._due(visit) else ()
        return self.cache.read(block, visit.first_view, visit.repeats), digests

    def refuse(self, drawn: DrawnVisit) -> None:
        for view, found in enumerate(drawn.digests, drawn.first_view):
            self.cache.require_pixels(drawn.block, view, found, self.shards.names[drawn.block.shard])

    def _due(self, visit: Visit) -> bool:
        if self.verify == "first_cycle":
            return visit.cycle == 0
        return self.verify >= 1.0 or Draws("verify", visit.cycle, visit.block).chance(self.verify)


@dataclass(frozen=True)
class FromTeacher:
    """A ``Label``: starts the live teacher on a visit; its answers pass the codec of a cache, with None all bits are kept."""

    teacher: Teacher
    recipe: Recipe
    codec: str | None

    def __call__(self, drawn: DrawnVisit) -> Callable[[], Targets]:
        answers = ask_visit(self.teacher, self.recipe, drawn)

        def targets() -> Targets:
            logits = answers().numpy()
            return Targets(hard_labels(logits), logits) if self.codec is None else through_codec(self.codec, logits)

        return targets


def sources(
    supervision: Supervision,
    views: int,
    verify: float | Literal["first_cycle"],
    shards: Shards,
    cache: Cache | None,
    live: FromTeacher | None,
) -> tuple[Lookup | None, Label | None]:
    """The two suppliers of ``training.batches`` for K = ``views``. Raises UsageError that says what is missing."""
    if supervision == "none":
        return None, None
    if supervision != "cached" and live is None:
        raise UsageError(
            f"targets are {supervision}, which need the teacher's weights; run: python -m stages.fit_teacher --teacher NAME"
        )
    if supervision == "live":
        return None, live
    if cache is None:
        raise UsageError(
            f"targets are {supervision}, which need a cache; run: python -m stages.precompute --cache NAME"
        )
    if supervision == "auto":
        return FromCache(cache, shards, verify, partial=True), live
    require_coverage(views, cache.views)
    missing = cache.missing(views)
    if missing:
        shown = few([f"({g}, {s})" for g, s in missing], 5)
        raise UsageError(
            f"{cache.path}: a cache alone must hold every part of views 0..{views - 1}, and {len(missing)} are missing: (view "
            f"group, shard) {shown}; run stages.precompute, or name a teacher as well"
        )
    return FromCache(cache, shards, verify, partial=False), None
