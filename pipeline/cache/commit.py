"""How a part becomes true: staging, record, exclusive link, roll-forward.

Zarr can't say whether an array is complete: a missing, empty or cut file reads as fill, silently. The truth is the
commit record of a part. Steps of a commit, each named in STEPS for the kill tests:

1. the part's files are written to ``staging/<g>.<s>.<attempt>/``, fsynced and summed up in a record there;
2. the record is linked to ``commits/<g>/<s>.json``: a link is exclusive, so exactly one attempt wins;
3. the files are renamed to their places: idempotent, and anyone may finish it for a winner that died.

A record holds no attempt id: staged files belong to a published record if the record that was staged with them equals it.
Nobody replaces a published part; ``cache.repair`` takes a damaged one out first.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.base import files
from pipeline.cache.arrays import open_arrays, part_selection
from pipeline.cache.codec import stored_dtype, stored_width
from pipeline.cache.layout import STAGING, Layout, Part, Store, staged
from pipeline.cache.records import (
    REPAIR,
    Record,
    file_sum,
    parse_record,
    read_record,
    record_bytes,
    require_file,
    row_digests,
)
from pipeline.runtime.errors import IntegrityError, UsageError

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


@dataclass(frozen=True)
class PartRows:
    """What a teacher says about a part of n samples: hard uint16 (G, n), encoded (G, n, W) as ``codec.pack`` gives it
    (None for codec none), pixels (G, blocks) of 16 hex digits; shard_hash: sha256 of the part's shard."""

    part: Part
    hard: np.ndarray
    encoded: np.ndarray | None
    pixels: np.ndarray | Sequence[Sequence[str]]
    shard_hash: str

    def check(self, shape: Layout) -> None:
        """Raises UsageError unless these are the answers on a part of this layout."""
        g, s = self.part
        if g < 0 or not 0 <= s < shape.shards:
            raise UsageError(f"part {self.part}: expected shards 0..{shape.shards - 1}")
        rows, encoded = (shape.group, shape.rows(s)), "nothing"
        if shape.codec != "none":
            wide = (*rows, stored_width(shape.codec, shape.classes))
            encoded = f"{stored_dtype(shape.codec)} {wide}"
        for name, array, expected in (("hard", self.hard, f"uint16 {rows}"), ("logits", self.encoded, encoded)):
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            if found != expected:
                raise UsageError(f"part {self.part}: {name}: expected {expected}, found {found}")
        if [len("".join(view)) for view in self.pixels] != [16 * shape.blocks(s)] * shape.group:
            raise UsageError(
                f"part {self.part}: pixels: expected {shape.group} x {shape.blocks(s)} digests of 16 hex digits"
            )


def commit(store: Store, answers: PartRows, reach: Reach = unwatched) -> bool:
    """Publishes one part; True if this attempt won, False if another had committed the part before.

    On an error before the link the staging is removed and its space given back; after the link the part is committed,
    the staging stays, and anyone's roll-forward finishes it. Raises OSError, IntegrityError.
    """
    return _attempt(store, answers.part, lambda staging: _stage(store, answers, staging, reach), reach)


def take(store: Store, record: Record, source: Store) -> bool:
    """Publishes a part that ``source``, a published cache of the same identity, holds as ``record`` says; True if this
    attempt won it. The copies are proven by the record. Raises as ``commit`` does."""
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
    """What a loser does: finish the part of a winner that may have died, perhaps from its own equal files."""
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
    """Moves an array's file to its place from an attempt that staged this very record: it has written all its files and
    synced them. An attempt that has not come so far may have an equal file, and still needs it."""
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
        return str(files.parse_json((directory / "record.json").read_bytes())["checksum"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return ""


def _begin(store: Store, part: Part) -> tuple[Path, int]:
    """A new staging directory and the locked lease in it, which tells the garbage collector that we live."""
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
    for name, rows in zip(arrays, (answers.hard, answers.encoded)):
        arrays[name][part_selection(shape, part)] = rows
        reach(f"wrote {name}")
    for name in arrays:
        files.fsync_file(staging / name)
    reach("synced files")
    sums = {name: found for name in arrays if (found := file_sum(staging / name))}
    pixels = ["".join(view) for view in answers.pixels]
    digests = row_digests(store, part, answers.hard, answers.encoded)
    content = record_bytes(store, part, sums, answers.shard_hash, pixels, digests)
    record = parse_record(content, store, part)
    files.write_durably(staging / "record.json", content)  # fsyncs the directory, so the arrays' names too
    files.fsync_directory(staging.parent)
    reach("wrote record")
    return record


def _stage_copy(store: Store, record: Record, source: Store, staging: Path) -> Record:
    """Copies the part's files and its record durably; the copies are what the record says."""
    for array, expected in record.files.items():
        files.copy_file(source.file_path(array, record.part), staging / array)
        require_file(source.file_path(array, record.part), expected, file_sum(staging / array))
        files.fsync_file(staging / array)
    content = source.record_path(record.part).read_bytes()
    staged_record = parse_record(content, store, record.part)
    files.write_durably(staging / "record.json", content)
    files.fsync_directory(staging.parent)
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
        files.fsync_directory(directory)
        if directory == top:
            return
        directory = directory.parent
