"""Removes damaged parts from a pool, and what dead jobs left."""

import fcntl
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.base import files
from pipeline.cache.commit import complete
from pipeline.cache.layout import STAGING, Part, read_identity, staged, store_of
from pipeline.cache.records import read_record
from pipeline.cache.verify import Finding, how_to_restore, report_text, require_files, verify
from pipeline.runtime.errors import IntegrityError


@dataclass(frozen=True)
class Garbage:
    """What ``collect`` removed and kept (with the reason), and the bytes given back."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    bytes: int


def examine(
    cache: Path, pool: Path, drop: bool, gc: bool, older_than: int
) -> tuple[dict[str, Any], list[Finding], str]:
    """Verifies one cache; removes damaged parts (``drop``) and what dead jobs left (``gc``) of a cache in a pool. The result
    as JSON data, the damage that is left, and the text for a person."""
    report = verify(cache, pool)
    result: dict[str, Any] = asdict(report)
    left = list(report.damaged)
    if drop and report.kind == "pool":
        dropped = repair(cache, [finding.part for finding in left if finding.part])
        result["dropped"], left = dropped, [finding for finding in left if finding.part not in dropped]
    if gc and report.kind == "pool" and not any(finding.part is None for finding in left):
        result["gc"] = asdict(collect(cache, older_than))
    text = report_text(report, result) + (f"\n{how_to_restore(report)}" if left and report.kind != "pool" else "")
    return result, left, text


def repair(cache: Path, parts: Iterable[Part]) -> tuple[Part, ...]:
    """Removes those of ``parts`` that are damaged from a cache in a pool, so that the next run labels them again.

    One repair runs at a time and checks each part again: another repair may have removed it, and a job may have committed it
    since. The files are removed before the record, so that no job commits the part meanwhile.
    """
    store = store_of(cache, read_identity(cache))
    dropped = []
    with (cache / "repair.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for part in sorted(parts):
            try:
                record = read_record(store, part)
                if record is not None:
                    require_files(store, record)
            except IntegrityError:
                for path in store.paths(part):
                    _remove(path)
                files.fsync(store.record_path(part).parent)
                dropped.append(part)
    return tuple(dropped)


def collect(cache: Path, older_than: float = 3600.0) -> Garbage:
    """Removes the staging of dead jobs from a cache in a pool.

    A job is dead if no process holds its lease and its staging is older than ``older_than`` seconds (some network file
    systems don't show leases to other machines). Staged files of a committed part are first moved to their places; staging
    of a part that can't be completed is kept. Raises IntegrityError if the identity is damaged.
    """
    store = store_of(cache, read_identity(cache))
    removed, kept, freed = [], [], 0
    for entry in sorted((cache / STAGING).iterdir()) if (cache / STAGING).is_dir() else []:
        try:
            if time.time() - entry.stat().st_mtime < older_than or _alive(entry):
                kept.append(f"{entry}: in use, or younger than {older_than:.0f} s")
                continue
            part = staged(cache).get(entry)
            if part is not None:
                complete(store, part)
        except IntegrityError as error:
            kept.append(f"{entry}: {error}")
            continue
        except FileNotFoundError:  # its owner has just cleaned up
            continue
        freed += sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
        _remove(entry)
        removed.append(str(entry))
    return Garbage(tuple(removed), tuple(kept), freed)


def _alive(entry: Path) -> bool:
    """Whether a process holds the lease of a staging directory."""
    try:
        lease = (entry / "lease").open("r+b")
    except (FileNotFoundError, NotADirectoryError):
        return False
    with lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no locks here: age alone decides
            pass
    return False


def _remove(path: Path) -> None:
    """Removes a file, a link or a whole directory; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()
