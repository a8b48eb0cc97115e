"""How a part becomes true: staging, record, exclusive link, roll-forward (layer L1).

Zarr can't say whether an array is complete: a missing, empty or cut file reads as fill, silently. The truth is the
commit record of a part. Steps of a commit, each named in STEPS for the kill tests:

1. the part's files are written to ``staging/<g>.<s>.<attempt>/``, fsynced and summed up in a record there;
2. the record is linked to ``commits/<g>/<s>.json``: a link is exclusive, so exactly one attempt wins;
3. the files are renamed to their places: idempotent, and anyone may finish it for a winner that died.

A record holds no attempt id: what an attempt staged belongs to the published record if its own record is equal. Nobody
replaces a published part; ``pipeline.verification.repair`` takes a damaged one out first.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files, layout
from pipeline.layout import Layout, Part
from pipeline.record import (
    REPAIR,
    STAGING,
    Record,
    checksum_file,
    parse_record,
    read_record,
    record_bytes,
    row_digests,
    staging_directories,
)
from pipeline.runtime import IntegrityError

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
Reach = Callable[[str], None]


def unwatched(step: str) -> None:
    """What a commit calls at each step; the kill tests pass their own."""


def commit(
    cache: Path,
    identity: Mapping[str, Any],
    identity_hash: str,
    shape: Layout,
    part: Part,
    hard: np.ndarray,
    stored: np.ndarray | None,
    pixels: Sequence[str],
    source: str,
    reach: Reach = unwatched,
) -> bool:
    """Publishes one part; True if this attempt won, False if another had committed the part before.

    hard uint16 (G, n), stored (G, n, W) as the codec gives it, pixels: per view 16 hex digits for each block. On an
    error before the link the staging is removed and its space given back; after the link the part is committed, the
    staging stays, and anyone's roll-forward finishes it. Raises OSError, IntegrityError.
    """
    staging, lease = _begin(cache, part)
    try:
        try:
            reach("begun")
            sums = _stage_arrays(staging, identity, shape, part, hard, stored, reach)
            rows = row_digests(identity_hash, shape, part, hard, stored)
            content = record_bytes(identity_hash, part, shape.rows(part[1]), sums, source, pixels, rows)
            record = parse_record(content, "record to commit", identity_hash, shape, part)
            files.write_durably(staging / "record.json", content)  # fsyncs the directory, so the arrays' names too
            files.fsync_directory(staging.parent)
            reach("wrote record")
            target = cache / layout.record_key(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            won = _link(staging / "record.json", target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        reach("linked")
        _fsync_upwards(target.parent, cache)
        reach("synced link")
        if won:
            roll_forward(cache, record, reach)
        else:
            _follow(cache, identity_hash, shape, part, staging)
        shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(lease)
    reach("cleaned")
    return won


def _follow(cache: Path, identity_hash: str, shape: Layout, part: Part, staging: Path) -> None:
    """What a loser does: finish the part of a winner that may have died, perhaps from its own equal files."""
    try:
        record = read_record(cache, identity_hash, shape, part)
        if record is not None:
            roll_forward(cache, record)
    except IntegrityError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def roll_forward(cache: Path, record: Record, reach: Reach = unwatched) -> None:
    """Moves a committed part's staged files to their places, wherever the attempt that staged them stopped.

    Idempotent, and safe beside any number of others. Raises IntegrityError if a file is nowhere.
    """
    for array, (size, checksum) in record.files.items():
        place = cache / layout.file_key(array, record.part)
        # Looked at twice: another process may move it between the looks at its place and at the staging.
        there = _matches(place, size, checksum) or _take(cache, record, array)
        if not there and not _matches(place, size, checksum):
            found = "a damaged file" if place.exists() else "no file"
            raise IntegrityError(f"{place}: expected {size} bytes, xxh3 {checksum}, found {found}; {REPAIR}")
        reach(f"rolled {array}")
    for array in record.files:
        _fsync_upwards((cache / layout.file_key(array, record.part)).parent, cache)
    reach("synced roll")


def recover(cache: Path, identity: str, shape: Layout) -> int:
    """Rolls forward every committed part that dead jobs left in staging; returns how many it looked at."""
    staged = sorted({part for _, part in staging_directories(cache)})
    for part in staged:
        record = read_record(cache, identity, shape, part)
        if record is not None:
            roll_forward(cache, record)
    return len(staged)


def _take(cache: Path, record: Record, array: str) -> bool:
    """Moves an array's file to its place from an attempt that staged this very record: it has written all its files and
    synced them. An attempt that has not come so far may have an equal file, and still needs it."""
    place, (size, checksum) = cache / layout.file_key(array, record.part), record.files[array]
    for directory, part in staging_directories(cache):
        if (
            part == record.part
            and _staged(directory) == record.checksum
            and _matches(directory / array, size, checksum)
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


def _staged(directory: Path) -> str:
    """The checksum of the record that an attempt has staged, "" if it has none."""
    try:
        return str(json.loads((directory / "record.json").read_bytes())["checksum"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return ""


def _matches(path: Path, size: int, checksum: str) -> bool:
    try:
        return path.stat().st_size == size and path.is_file() and checksum_file(path) == checksum
    except (FileNotFoundError, NotADirectoryError):
        return False


def _begin(cache: Path, part: Part) -> tuple[Path, int]:
    """A new staging directory and the locked lease in it, which tells the garbage collector that we live."""
    staging = cache / STAGING / f"{part[0]}.{part[1]}.{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    lease = os.open(staging / "lease", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    with suppress(OSError):  # no locks on this file system: then only age protects a live attempt
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return staging, lease


def _stage_arrays(
    staging: Path,
    identity: Mapping[str, Any],
    shape: Layout,
    part: Part,
    hard: np.ndarray,
    stored: np.ndarray | None,
    reach: Reach,
) -> dict[str, tuple[int, str]]:
    """Writes the part's arrays through zarr and returns size and xxh3 of every file."""
    documents = layout.metadata(identity, shape, (part[0] + 1) * shape.group)
    store = layout.CacheStore(staging, documents, read_only=False)
    values = {"hard": hard} if stored is None else {"hard": hard, "logits": stored}
    for name, rows in values.items():
        layout.open_array(store, name)[layout.part_selection(shape, part)] = rows
        reach(f"wrote {name}")
    for name in values:
        files.fsync_file(staging / name)
    reach("synced files")
    return {name: ((staging / name).stat().st_size, checksum_file(staging / name)) for name in values}


def _link(staged: Path, target: Path) -> bool:
    """Publishes the record; False if there was one already."""
    try:
        os.link(staged, target)
    except FileExistsError:
        # NFS can report a link as refused that a lost first answer had made.
        return target.exists() and staged.samefile(target)
    return True


def _fsync_upwards(directory: Path, top: Path) -> None:
    """Makes the names from ``directory`` up to and including those in ``top`` durable."""
    while True:
        files.fsync_directory(directory)
        if directory == top:
            return
        directory = directory.parent
