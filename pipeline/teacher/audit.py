"""Asking the teacher again: random parts of a cache are labelled anew and compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cache.codec import through_codec
from pipeline.cache.identity import cache_identity, require_identity
from pipeline.cache.reader import open_cache
from pipeline.cache.records import RELABEL
from pipeline.cache.teacher_answers_canary import rounds_differently
from pipeline.data.shards import Shards
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.progress import progress, say
from pipeline.runtime.units import number
from pipeline.runtime.work import Work
from pipeline.teacher.canary import answers_canary
from pipeline.teacher.label import label_visit
from pipeline.teacher.model import Teacher
from pipeline.teacher.precompute import LabelledCache
from pipeline.views.chance import Draws
from pipeline.views.choose import Visit
from pipeline.views.workers import read_visits


@dataclass(frozen=True)
class Audit:
    """Rows of the audited parts: ``equal`` in every bit, ``hard_equal`` in the hard label; ``worst`` logit difference;
    ``pixels_equal`` views per block whose pixels have the cache's digest, of ``views``."""

    parts: int
    rows: int
    equal: int
    hard_equal: int
    worst: float
    views: int
    pixels_equal: int

    def __str__(self) -> str:
        return (
            f"{self.equal:,} of {self.rows:,} rows of {self.parts} parts equal in every bit, {self.hard_equal:,} hard labels; "
            f"largest difference of a logit {number(self.worst)}; pixels of {self.pixels_equal} of {self.views} views equal"
        )

    @property
    def problems(self) -> list[str]:
        """What no difference of hardware explains: other pixels, or more than 0.1 % of the hard labels."""
        found = []
        if self.pixels_equal < self.views:
            other = self.views - self.pixels_equal
            found.append(f"{other} of {self.views} views have other pixels than the teacher saw; {RELABEL}")
        if self.hard_equal < 0.999 * self.rows:
            found.append(f"{self.rows - self.hard_equal} of {self.rows} hard labels are not the teacher's; {RELABEL}")
        return found


def audit(path: Path, made: LabelledCache, work: Work, parts: int, seed: int, workers: int) -> Audit:
    """Labels ``parts`` parts of the cache at ``path`` again, drawn by ``seed``, as params.yaml says that it was ``made``.

    Equal hardware, libraries and precision give equal bits; another GPU may differ in the last ones, so the hard labels
    are counted apart. Raises IdentityError if the cache is of other views or another teacher, IntegrityError where it
    is damaged.
    """
    device = pick_device()
    cache = open_cache(path)
    shape = cache.layout
    shards, recipe = Shards.open(work.split("train")), made.cache.recipe
    weights = work.teacher_weights(made.cache.config.teacher)
    teacher = Teacher.load(made.teacher, weights, shape.classes, recipe, shape.block, device)
    whole = cache_identity(shards, recipe, shape, teacher.identity(), device)
    require_identity(cache, whole, path)
    if told := rounds_differently(cache.path, answers_canary(teacher, recipe)):
        say(f"warning: {told}")
    there = sorted(cache.parts)
    chosen = [there[i] for i in Draws(seed, "audit").permutation(len(there))[:parts]]
    visits = [
        Visit(block.index, view, 1, 0)
        for g, s in chosen
        for block in shards.blocks
        if block.shard == s
        for view in shape.views_of(g)
    ]
    rows = equal = hard_equal = pixels_equal = 0
    worst = 0.0
    with progress("predict", len(visits), "blocks") as tick:
        for drawn in read_visits(shards, recipe, visits, 1, workers):
            block, view = drawn.block, drawn.first_view
            found = through_codec(shape.codec, label_visit(teacher, recipe, drawn).numpy())
            kept = cache.read(block, view, 1)
            same = found.hard[0] == kept.hard[0]
            hard_equal += int(same.sum())
            if found.logits is not None and kept.logits is not None:
                same &= (found.logits[0] == kept.logits[0]).all(axis=1)
                worst = max(worst, float(np.abs(found.logits - kept.logits).max()))
            rows, equal = rows + block.samples, equal + int(same.sum())
            pixels_equal += drawn.digests[0] == cache.pixel_digest(block, view)
            tick()
    return Audit(len(chosen), rows, equal, hard_equal, worst, len(visits), pixels_equal)
