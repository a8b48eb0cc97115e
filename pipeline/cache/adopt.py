"""Copies published parts into the work pool, so that a cache can grow.

After a pull into another clone the pool is empty, and DVC removes the published cache before it runs the stage that could
read it. Without this, all parts would be labelled again.
"""

from pathlib import Path

from pipeline.cache.commit import take
from pipeline.cache.layout import cache_path, recorded
from pipeline.cache.pool import open_pool
from pipeline.cache.reader import find_store
from pipeline.cache.records import require_record
from pipeline.cache.teacher_answers_canary import canaries, note_canaries
from pipeline.runtime.errors import IntegrityError, PipelineError
from pipeline.runtime.progress import progress, say


def adopt_all(work: Path, pool_root: Path) -> int:
    """Copies every published cache below ``work`` into the pool; how many parts were copied. It warns of a cache that can't
    be copied; the stage that needs it then labels it again."""
    taken = 0
    for path in sorted((work / "caches").glob("*")):
        if not (path / "zarr.json").is_file():  # "none", or a receipt, whose data are in a pool
            continue
        try:
            taken += adopt(path, pool_root)
        except (PipelineError, OSError) as error:
            say(f"warning: {path}: not taken into the work pool: {error}")
    return taken


def adopt(path: Path, pool_root: Path) -> int:
    """Copies the parts of the published cache ``path`` that the pool at ``pool_root`` lacks, each compared with its record;
    how many. It warns of damaged parts and leaves them out. Raises UsageError (the pool can't be written), RetryError
    (disk full), IntegrityError (damaged metadata)."""
    source = find_store(path, None)
    assert source.views is not None, "a published cache knows its views"
    there = cache_path(pool_root, source.hash)
    todo = sorted(set(source.layout.parts(source.views)) - recorded(there))
    if not todo:
        return 0
    pool, taken = open_pool(pool_root, source.identity, new_cache=True), 0
    with progress(f"{path}: into the work pool", len(todo), "parts") as tick:
        for part in todo:
            try:
                taken += take(pool, require_record(source, part), source)
            except IntegrityError as error:
                say(f"warning: {error}; this part is left out")
            tick()
    note_canaries(pool, canaries(path))
    say(f"{path}: {taken} parts taken into the work pool {pool.path}")
    return taken
