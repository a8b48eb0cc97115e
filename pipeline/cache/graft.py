"""Takes parts of equal shards from other caches in the work pool, so that a cache grows with its data.

A part is a function of its shard's bytes, the view group and what the identity says besides shards: recipe, teacher, codec, S, b,
G, classes. It depends neither on the number of samples nor on the shard's place. So a cache of more or fewer shards finds
the parts of those that it shares with an earlier one.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.arrays import PartRows, open_arrays, part_selection
from pipeline.cache.layout import Part, Store, caches, committed, is_committed, read_identity, store_of
from pipeline.cache.pool import commit_part
from pipeline.cache.records import REPAIR, file_sum, require_file, require_record
from pipeline.runtime.errors import IntegrityError, PipelineError
from pipeline.runtime.progress import progress, say


def graft(root: Path, pool: Store, parts: Iterable[Part]) -> int:
    """Commits those of ``parts`` that ``pool`` lacks and another cache in the pool at ``root`` holds for an equal shard, each
    compared with its record; how many. Of damaged parts it warns, and leaves them out. Raises as ``commit_part`` does."""
    lacking, taken = set(parts) - committed(pool), 0
    for path in caches(root) if lacking else ():
        other = _relative(path, pool)
        if other is None:
            continue
        there, place = committed(other), {sha: s for s, sha in enumerate(other.identity["shards"])}
        named = {(g, s): (g, place.get(pool.identity["shards"][s], -1)) for g, s in lacking}
        todo = sorted((part, old) for part, old in named.items() if old in there)
        with progress(f"{path}: parts of equal shards", len(todo), "parts") as tick:
            for part, old in todo:
                try:
                    commit_part(pool, _readable_rows(other, old, part))
                    lacking.discard(part)
                    taken += 1
                except IntegrityError as error:
                    say(f"warning: {error}; this part is left out")
                tick()
        if todo:
            say(f"{path}: {len(todo)} parts of equal shards taken, which nobody labels again")
    return taken


def _relative(path: Path, pool: Store) -> Store | None:
    """The cache in ``path`` if it differs from ``pool`` in its shards alone."""
    if path == pool.path:
        return None
    try:
        found = read_identity(path)
        return store_of(path, found) if _but_shards(found) == _but_shards(pool.identity) else None
    except (PipelineError, OSError, KeyError, TypeError):  # open_pool says so where it matters
        return None


def _but_shards(identity: Mapping[str, Any]) -> dict[str, Any]:
    layout = {key: value for key, value in identity["layout"].items() if key != "samples"}
    return {key: value for key, value in identity.items() if key != "shards"} | {"layout": layout}


def _readable_rows(other: Store, old: Part, part: Part) -> PartRows:
    try:
        return _rows(other, old, part)
    except OSError as error:
        raise IntegrityError(f"{other.path}: part {old} can't be read: {error.strerror}; {REPAIR}") from None


def _rows(other: Store, old: Part, part: Part) -> PartRows:
    """The answers of part ``old`` of ``other``, proven by its record, as part ``part`` of an equal shard."""
    record, shape = require_record(other, old), other.layout
    for array, expected in record.files.items():
        require_file(other.file_path(array, old), expected, file_sum(other.file_path(array, old)))
    arrays = open_arrays(other.path, other.identity, shape, (old[0] + 1) * shape.group, read_only=True)
    hard, *packed = (arrays[name][part_selection(shape, old)] for name in shape.arrays)
    if not is_committed(other, old):  # zarr reads a file that is gone as fill values
        raise IntegrityError(f"{other.path}: part {old} was removed while it was read; {REPAIR}")
    shard = other.identity["shards"][old[1]]
    return PartRows(part, hard, packed[0] if packed else None, record.pixels, shard)
