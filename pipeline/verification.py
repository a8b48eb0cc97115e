"""Verify every part of a teacher cache, take damaged parts out, remove what dead jobs left (layer L1)."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import files, layout
from pipeline.cache import find_source
from pipeline.commit import roll_forward
from pipeline.layout import Layout, Part
from pipeline.record import (
    ANEW,
    REPAIR,
    STAGING,
    Record,
    caches,
    check_size,
    checksum_file,
    listed,
    read_identity,
    read_record,
    recorded,
    staging_directories,
)
from pipeline.runtime import IntegrityError, UsageError, progress

State = Literal["damaged", "pending", "stray"]
_LOG_FILES = {"identity.json", "log.jsonl", "repair.lock"}


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. Only "damaged" is an error: a pending part is committed and not yet in
    place, a stray file belongs to no committed part and is never read."""

    state: State
    part: Part | None
    reason: str


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found: ``parts`` committed parts looked at, ``whole`` of them are as their records say."""

    path: str
    kind: Literal["published", "receipt", "pool"]
    identity: str
    views: int
    parts: int
    whole: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def damaged(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state == "damaged")


@dataclass(frozen=True)
class Garbage:
    """What ``collect`` removed and kept (with the reason), and the bytes given back."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    bytes: int


def targets_of(path: Path) -> list[Path]:
    """The caches that a path names: itself, or all of a work pool. Raises UsageError if it names none."""
    if any((path / name).exists() for name in ("zarr.json", "receipt.json", "identity.json", "commits")):
        return [path]
    found = caches(path)
    if not found:
        raise UsageError(f"{path}: neither a teacher cache nor a work pool with caches")
    return found


def verify(path: Path, pool: Path | None = None) -> Verification:
    """Checks metadata, records, size and xxh3 of every file of a published cache, a receipt's, or one in a pool.

    Raises UsageError if there is no cache; damage is returned, not raised.
    """
    kind: Literal["published", "receipt", "pool"] = "pool"
    if (path / "receipt.json").exists():
        kind = "receipt"
    elif (path / "zarr.json").exists() or not (path / "staging").exists():
        kind = "published"
    try:
        source = find_source(path, pool)
        shape = layout.of_identity(source.identity, str(path))
        views = source.views or _whole_views(recorded(source.path), shape)
    except (IntegrityError, UsageError) as error:
        if kind == "receipt" and isinstance(error, UsageError):  # no such pool here
            raise
        return Verification(str(path), kind, "", 0, 0, 0, 0, (Finding("damaged", None, str(error)),))
    identity = files.digest(source.identity)
    parts = recorded(source.path) if source.views is None else set(shape.parts(views))
    coming = {part for _, part in staging_directories(source.path)}
    findings: list[Finding] = []
    whole = checked = 0
    with progress("verify", len(parts), "parts") as tick:
        for part in sorted(parts):
            try:
                record = _require_record(source.path, identity, shape, part)
                if source.pinned is not None and source.pinned[part[0]][part[1]] != record.checksum:
                    raise IntegrityError(
                        f"part {part}: computed anew after the receipt was written; run precompute again"
                    )
                check_files(source.path, record)
                whole, checked = whole + 1, checked + sum(size for size, _ in record.files.values())
            except IntegrityError as error:
                pending = part in coming and part not in listed(source.path, shape)
                findings.append(Finding("pending" if pending else "damaged", part, str(error)))
            tick()
    findings += [Finding("stray", None, f"{name}: no committed part") for name in _strays(source.path, shape, parts)]
    return Verification(str(path), kind, identity, views, len(parts), whole, checked, tuple(findings))


def check_files(cache: Path, record: Record) -> None:
    """Raises IntegrityError unless every file of a part has the size and xxh3 of its record."""
    for array, (size, checksum) in record.files.items():
        path = cache / layout.file_key(array, record.part)
        check_size(path, size)
        found = checksum_file(path)
        if found != checksum:
            raise IntegrityError(f"{path}: expected xxh3 {checksum}, found {found}; {REPAIR}")


def repair(cache: Path, parts: Iterable[Part]) -> tuple[Part, ...]:
    """Takes those of ``parts`` that are damaged out of a cache in a pool, so that the next run makes them anew.

    One repair runs at a time, and each part is checked again first: another may have repaired it, and a job committed
    it. The files go before the record, so that nobody publishes the part while they are removed.
    """
    identity = read_identity(cache)
    shape = layout.of_identity(identity, str(cache))
    dropped = []
    lock = os.open(cache / "repair.lock", os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for part in sorted(parts):
            try:
                record = read_record(cache, files.digest(identity), shape, part)
                if record is None:
                    continue
                check_files(cache, record)
            except IntegrityError:
                for array in shape.arrays:
                    _remove(cache / layout.file_key(array, part))
                _remove(cache / layout.record_key(part))
                files.fsync_directory((cache / layout.record_key(part)).parent)
                dropped.append(part)
    finally:
        os.close(lock)
    return tuple(dropped)


def collect(cache: Path, older_than: float = 3600.0) -> Garbage:
    """Removes the staging of dead jobs from a cache in a pool.

    Dead: no process holds its lease, and it is older than ``older_than`` seconds (leases are not seen across machines
    on every network file system). Staged files that a commit names are moved to their places first, and staging that
    can't be accounted for is kept. Raises IntegrityError if the identity is damaged.
    """
    identity = read_identity(cache)
    shape = layout.of_identity(identity, str(cache))
    removed, kept, freed = [], [], 0
    for entry in sorted((cache / STAGING).iterdir()) if (cache / STAGING).is_dir() else []:
        part = dict(staging_directories(cache)).get(entry)
        try:
            if time.time() - entry.stat().st_mtime < older_than or _alive(entry):
                kept.append(f"{entry}: in use, or younger than {older_than:.0f} s")
                continue
            record = read_record(cache, files.digest(identity), shape, part) if part else None
            if record is not None:
                roll_forward(cache, record)
        except IntegrityError as error:
            kept.append(f"{entry}: {error}")
            continue
        except FileNotFoundError:  # its owner has just cleaned up
            continue
        freed += sum(path.stat().st_size for path in entry.rglob("*") if path.is_file()) if entry.is_dir() else 0
        _remove(entry)
        removed.append(str(entry))
    return Garbage(tuple(removed), tuple(kept), freed)


def advice(report: Verification) -> str:
    """What to do about damage in a published copy or in what a receipt names, which only DVC and the pool write again."""
    repair_pool = "python -m stages.verify --repair ${DISTIL_POOL:-work/pool}"
    if report.kind == "receipt":
        return (
            f"{report.path} is a receipt, and the data are in the pool. To restore them:\n"
            f"  1. take the damaged parts out: {repair_pool}\n"
            f"  2. label them again and write the receipt anew: {ANEW}"
        )
    objects = (
        'for f in */*; do [ "$(md5sum < "$f" | cut -c-32)" = "$(echo "${f%.dir}" | tr -d /)" ] || rm -fv "$f"; done'
    )
    return (
        f"{report.path} is a published copy, which is never written in place. To restore it:\n"
        f"  1. verify the pool that it came from: {repair_pool}\n"
        f"  2. rm -r {report.path}\n"
        f"  3. the damage may sit in DVC's cache too, which trusts it: remove objects that are not their md5:\n"
        f'     (cd "$(dvc cache dir)/files/md5" && {objects})\n'
        f"  4. dvc repro: checks the copy out again, or publishes it anew from the pool without the teacher"
    )


def _require_record(cache: Path, identity: str, shape: Layout, part: Part) -> Record:
    record = read_record(cache, identity, shape, part)
    if record is None:
        raise IntegrityError(f"{cache / layout.record_key(part)}: no commit record; {REPAIR}")
    return record


def _whole_views(parts: set[Part], shape: Layout) -> int:
    """V of a cache in a pool: the views that all shards have, from the first on."""
    groups = 0
    while all((groups, shard) in parts for shard in range(shape.shards)):
        groups += 1
    return groups * shape.group


def _strays(cache: Path, shape: Layout, parts: set[Part]) -> list[str]:
    """Files that no part and no metadata account for, relative to the cache."""
    known: set[str] = _LOG_FILES | {"zarr.json"} | {f"{array}/zarr.json" for array in shape.arrays}
    for part in parts:
        known |= {layout.record_key(part), *(layout.file_key(array, part) for array in shape.arrays)}
    found = []
    for folder, folders, names in os.walk(cache):
        if Path(folder) == cache:
            folders[:] = [name for name in folders if name != STAGING]
        found += [str((Path(folder) / name).relative_to(cache)) for name in names]
    return sorted(set(found) - known)


def _alive(entry: Path) -> bool:
    """Whether a process holds the lease of a staging directory."""
    try:
        lease = os.open(entry / "lease", os.O_WRONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here: age alone decides
        return False
    finally:
        os.close(lease)
    return False


def _remove(path: Path) -> None:
    """Removes a file, a link or a whole directory; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def describe(report: Verification, result: Mapping[str, Any]) -> str:
    """The report for a person, and of ``result`` what was done besides (dropped, gc)."""
    size = f"{report.bytes / 1e6:.1f} MB, V = {report.views}"
    lines = [f"{report.path}: {report.whole} of {report.parts} parts whole ({size})"]
    lines += [f"  {finding.state}: {finding.reason}" for finding in report.findings]
    lines += [f"  {key}: {json.dumps(result[key])}" for key in ("dropped", "gc") if key in result]
    if result.get("dropped"):
        lines.append(
            f"  next: label the dropped parts again: python -m stages.precompute, or where DVC holds a receipt: {ANEW}"
        )
    return "\n".join(lines)
