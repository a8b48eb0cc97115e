"""How a part becomes true: staging, record, exclusive link, roll-forward.

Zarr can't say whether an array is complete: a missing, empty or cut file silently reads as fill. What is true is said by
the commit record of a part. Steps of a commit:

1. the part's files are written to ``staging/<g>.<s>.<attempt>/``, fsynced and summed up in a record there;
2. the record is linked to ``commits/<g>/<s>.json``: a link is exclusive, so exactly one attempt wins;
3. the files are renamed to their places: idempotent, and anyone may finish it for a winner that died.

A record holds no attempt id: staged files belong to a published record that is identical to the one staged beside them.
A published part is never replaced; ``cache.repair`` removes a damaged one first.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.base import files
from pipeline.cache.arrays import PartRows, open_arrays, part_selection
from pipeline.cache.layout import STAGING, Part, Store, staged
from pipeline.cache.records import (
    REPAIR,
    Record,
    file_sum,
    parse_record,
    read_record,
    record_bytes,
    require_bytes,
    require_file,
    row_digests,
)
from pipeline.runtime.errors import IntegrityError

Reach = Callable[[str], None]


def unwatched(step: str) -> None:
    """What a commit calls at each step; the kill tests pass their own."""


def commit(store: Store, answers: PartRows, reach: Reach = unwatched) -> bool:
    """Publishes one part; True if this attempt won, False if another had committed the part before.

    On an error before the link the staging is removed, which frees its space. After the link the part is committed; the
    staging then stays until a roll-forward, by any process, finishes it. Raises OSError, IntegrityError.
    """
    return _attempt(store, answers.part, lambda staging: _stage(store, answers, staging, reach), reach)


def take(store: Store, record: Record, source: Store) -> bool:
    """Publishes a copy of the part of ``record`` in ``source``, a published cache of the same identity; True if this
    attempt won. The copies are compared with the record. Raises as ``commit`` does."""
    return _attempt(store, record.part, lambda staging: _stage_copy(store, record, source, staging), unwatched)


def _attempt(store: Store, part: Part, stage: Callable[[Path], Record], reach: Reach) -> bool:
    """``stage`` leaves files and record of a part in a staging directory; then the record is linked and rolled forward."""
    staging, lease = _begin(store, part)
    target = store.record_path(part)
    try:
        try:
            reach("begun")
            record = stage(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            won = _link(staging / "record.json", target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        reach("linked")
        _fsync_upwards(target.parent, store.path)
        reach("synced link")
        if won:
            roll_forward(store, record, reach)
        else:
            _follow(store, part, staging)
        shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(lease)
    reach("cleaned")
    return won


def _follow(store: Store, part: Part, staging: Path) -> None:
    """Finishes, for an attempt that lost, the part of a winner that may have died; equal files of its own may serve."""
    try:
        complete(store, part)
    except IntegrityError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def complete(store: Store, part: Part) -> None:
    """Rolls a part forward if it is committed. Raises IntegrityError."""
    record = read_record(store, part)
    if record is not None:
        roll_forward(store, record)


def roll_forward(store: Store, record: Record, reach: Reach = unwatched) -> None:
    """Moves a committed part's staged files to their places, wherever the attempt that staged them stopped.

    Idempotent, and safe beside any number of others. Raises IntegrityError if a file is nowhere.
    """
    for array, expected in record.files.items():
        place = store.file_path(array, record.part)
        if file_sum(place) != expected and not _take(store, record, array):
            # Another process may have moved it between the looks at its place and at the staging.
            require_file(place, expected, file_sum(place))
        reach(f"rolled {array}")
    for array in record.files:
        _fsync_upwards(store.file_path(array, record.part).parent, store.path)
    reach("synced roll")


def recover(store: Store) -> None:
    """Rolls forward every committed part that dead jobs left in staging."""
    for part in sorted(set(staged(store.path).values())):
        complete(store, part)


def _take(store: Store, record: Record, array: str) -> bool:
    """Moves an array's file to its place from an attempt that staged this very record, and so has synced all its files.
    An earlier attempt may hold an equal file, but still needs it."""
    place = store.file_path(array, record.part)
    for directory, part in staged(store.path).items():
        if (
            part == record.part
            and _staged_record(directory) == record.checksum
            and file_sum(directory / array) == record.files[array]
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                (directory / array).replace(place)
            except FileNotFoundError:  # another process took it first
                continue
            except IsADirectoryError:
                raise IntegrityError(f"{place}: expected a file, found a directory; {REPAIR}") from None
            return True
    return False


def _staged_record(directory: Path) -> str:
    """The checksum of the record that an attempt has staged, "" if it has none."""
    try:
        return str(files.parse_json(files.read_small(directory / "record.json"))["checksum"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return ""


def _begin(store: Store, part: Part) -> tuple[Path, int]:
    """A new staging directory and the locked lease in it, by which the garbage collector knows that this process lives."""
    staging = store.path / STAGING / f"{part[0]}.{part[1]}.{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    lease = os.open(staging / "lease", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    with suppress(OSError):  # no locks on this file system: then only age protects a live attempt
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return staging, lease


def _stage(store: Store, answers: PartRows, staging: Path, reach: Reach) -> Record:
    """Writes the part's arrays through zarr and their record, durably."""
    shape, part = store.layout, answers.part
    arrays = open_arrays(staging, store.identity, shape, (part[0] + 1) * shape.group, read_only=False)
    for name, rows in zip(arrays, (answers.hard, answers.packed)):
        arrays[name][part_selection(shape, part)] = rows
        reach(f"wrote {name}")
    for name in arrays:
        files.fsync(staging / name)
    reach("synced files")
    sums = {name: found for name in arrays if (found := file_sum(staging / name))}
    pixels = ["".join(view) for view in answers.pixels]
    digests = row_digests(store, part, answers.hard, answers.packed)
    content = record_bytes(store, part, sums, answers.shard_hash, pixels, digests)
    record = parse_record(content, store, part)
    files.write_durably(staging / "record.json", content)  # fsyncs the directory, so the arrays' names too
    files.fsync(staging.parent)
    reach("wrote record")
    return record


def _stage_copy(store: Store, record: Record, source: Store, staging: Path) -> Record:
    """Copies the part's files and its record durably; the copies are what the record says."""
    for array, expected in record.files.items():
        require_bytes(source.file_path(array, record.part), expected[0])
        files.copy_file(source.file_path(array, record.part), staging / array)
        require_file(source.file_path(array, record.part), expected, file_sum(staging / array))
        files.fsync(staging / array)
    content = files.read_small(source.record_path(record.part))
    staged_record = parse_record(content, store, record.part)
    files.write_durably(staging / "record.json", content)
    files.fsync(staging.parent)
    return staged_record


def _link(fresh: Path, target: Path) -> bool:
    """Publishes the record; False if there was one already."""
    try:
        os.link(fresh, target)
    except FileExistsError:
        # NFS can report a link as refused that a lost first answer had made.
        return target.exists() and fresh.samefile(target)
    return True


def _fsync_upwards(directory: Path, top: Path) -> None:
    """Makes the names from ``directory`` up to and including those in ``top`` durable."""
    while True:
        files.fsync(directory)
        if directory == top:
            return
        directory = directory.parent
