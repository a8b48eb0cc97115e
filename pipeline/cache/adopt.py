"""From a published cache back into the work pool, whose parts a growing cache goes on from.

After a pull in another clone the pool is empty, and DVC removes the published cache before the stage runs that would have
read it: without this, everything would be labelled anew.
"""

from pathlib import Path

from pipeline.cache.commit import take
from pipeline.cache.layout import Store, cache_path, recorded
from pipeline.cache.pool import open_pool
from pipeline.cache.reader import find_store
from pipeline.cache.records import require_record
from pipeline.cache.teacher_answers_canary import canaries, note
from pipeline.runtime.errors import IntegrityError, PipelineError
from pipeline.runtime.progress import progress, say


def adopt_all(work: Path, pool_root: Path) -> int:
    """Takes every published cache below ``work`` into the pool; how many parts were taken. What can't be taken is said: the
    stage that needs it labels it anew."""
    taken = 0
    for path in sorted((work / "caches").glob("*")):
        if not (path / "zarr.json").is_file():  # "none", a receipt, whose data are in a pool, or nothing of ours
            continue
        try:
            taken += adopt(path, pool_root)
        except (PipelineError, OSError) as error:
            say(f"warning: {path}: not taken into the work pool: {error}")
    return taken


def adopt(path: Path, pool_root: Path) -> int:
    """Copies the parts of the published cache ``path`` that the pool at ``pool_root`` lacks, each proven by its record;
    how many. Damaged parts are said and left out. Raises UsageError (the pool can't be written), RetryError (disk full),
    IntegrityError (damaged metadata)."""
    source = find_store(path, None)
    assert source.views is not None, "a published cache knows its views"
    there = cache_path(pool_root, source.hash)
    todo = sorted(set(source.layout.parts(source.views)) - recorded(there))
    if not todo:
        return 0
    pool, taken = open_pool(pool_root, source.identity, new_cache=True), 0
    with progress(f"{path}: into the work pool", len(todo), "parts") as tick:
        for part in todo:
            taken += _take(pool, source, part)
            tick()
    note(pool, canaries(path))
    say(f"{path}: {taken} parts taken into the work pool {pool.path}")
    return taken


def _take(pool: Store, source: Store, part: tuple[int, int]) -> bool:
    try:
        return take(pool, require_record(source, part), source)
    except IntegrityError as error:
        say(f"warning: {error}; this part is left out")
        return False
