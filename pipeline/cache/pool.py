"""The work pool: caches under construction, one directory per identity, shared by clones and jobs.

``<root>/caches/<first 12 digits of the identity's hash>/`` holds ``identity.json``, the parts' files, ``commits/``,
``staging/`` and ``log.jsonl`` (versions, hosts and times: what may differ between equal caches).
"""

import errno
import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.base import difference, files
from pipeline.cache import commit
from pipeline.cache.arrays import PartRows
from pipeline.cache.commit import Reach, unwatched
from pipeline.cache.layout import STAGING, Store, cache_path, caches, read_identity, store_of
from pipeline.runtime.errors import IdentityError, IntegrityError, RetryError, UsageError
from pipeline.runtime.libraries import installed
from pipeline.runtime.machine import device_name
from pipeline.runtime.progress import say

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "zarr", "numcodecs")
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def open_pool(root: Path, identity: dict[str, Any], new_cache: bool = False) -> Store:
    """The cache of this identity in the pool at ``root``, made if there is none.

    Finishes what dead jobs committed; of the records it parses only those of parts in staging. Raises UsageError (read-only
    pool, file system without hard links), IdentityError (another cache differs only in fields that the machine decides,
    unless ``new_cache``), IntegrityError, RetryError (disk full).
    """
    pool = store_of(cache_path(root, files.digest(identity)), identity)
    if not (pool.path / "identity.json").exists() and not new_cache:
        _refuse_same_cache_of_other_libraries(root, identity)
    with _writing(root):
        (pool.path / STAGING).mkdir(parents=True, exist_ok=True)
        _probe_links(pool.path / STAGING)
        _publish_identity(pool)
        commit.recover(pool)
        note(pool, {"event": "opened", "device": device_name(), "versions": installed(_LIBRARIES)})
    return pool


def commit_part(pool: Store, answers: PartRows, reach: Reach = unwatched) -> bool:
    """Publishes one part; True if this job won it, False if another had committed it.

    Raises UsageError for other shapes, RetryError (75) when the disk is full, with the space given back, IntegrityError
    when the part was committed before and is damaged.
    """
    answers.check(pool.layout)
    started, part = time.time(), answers.part
    with _writing(pool.path):
        won = commit.commit(pool, answers, reach)
        event, rows = "won" if won else "lost", pool.layout.rows(part[1])
        note(pool, {"event": event, "part": list(part), "rows": rows, "started": started})
    return won


def _refuse_same_cache_of_other_libraries(root: Path, identity: Mapping[str, Any]) -> None:
    """Raises IdentityError if the pool has a cache that differs only in what the machine decides: it would be labelled
    twice."""
    for path in caches(root):
        if not (path / "identity.json").exists():  # another job is just making it, or died there
            continue
        try:
            found = read_identity(path)
        except IntegrityError as error:
            say(f"warning: skipped in the pool: {error}")
            continue
        apart = difference.differences(identity, found)
        if difference.machine_only(apart):
            raise IdentityError(
                f"{path}: the same cache but for the machine:\n{difference.describe(apart)}\n{difference.OTHER_MACHINE}"
            )


def _probe_links(staging: Path) -> None:
    """Raises UsageError, before any work, on a file system without hard links, which commits need."""
    probe = staging / f"probe.{uuid.uuid4().hex}"
    linked = staging / f"{probe.name}.linked"
    probe.touch()
    try:
        linked.hardlink_to(probe)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise UsageError(
            f"{staging}: the pool's file system has no hard links ({error.strerror}), which commits need; "
            f"set DISTIL_POOL to a directory on another file system (ext4, xfs, btrfs, tmpfs, NFS, Lustre)"
        ) from None
    finally:
        linked.unlink(missing_ok=True)
        probe.unlink(missing_ok=True)


def _publish_identity(pool: Store) -> None:
    """Writes identity.json once; of two jobs at once one wins, with the same bytes."""
    if not (pool.path / "identity.json").exists():
        fresh = pool.path / STAGING / f"identity.{uuid.uuid4().hex}"
        files.write_durably(fresh, files.canonical_json(pool.identity))
        with suppress(FileExistsError):
            (pool.path / "identity.json").hardlink_to(fresh)
        fresh.unlink()
        files.fsync(pool.path)
        files.fsync(pool.path.parent)
    difference.require_same(
        pool.identity, read_identity(pool.path), str(pool.path), "remove that directory or use another pool"
    )


@contextmanager
def _writing(where: Path) -> Iterator[None]:
    """Turns the file system's refusals into ours: read-only is usage (2), full is retry (75)."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise UsageError(
                f"{where}: the pool can't be written ({error.strerror}: {error.filename}); "
                f"set DISTIL_POOL to a directory that you may write"
            ) from error
        if error.errno in _FULL:
            raise RetryError(
                f"{where}: no space left ({error.strerror}); nothing is lost: free some space, "
                f"then run the same command"
            ) from error
        raise


def note(pool: Store, event: Mapping[str, Any]) -> None:
    """Appends one line to the pool's log by a single short write, so that lines of several jobs do not mix."""
    line = {"time": time.time(), "host": platform.node(), "pid": os.getpid(), **event}
    with (pool.path / "log.jsonl").open("ab", buffering=0) as log:
        log.write(files.canonical_json(line))
