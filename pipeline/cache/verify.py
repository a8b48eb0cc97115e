"""Verifies every part of a teacher cache, and says how to restore what is damaged."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.cache.layout import STAGING, Kind, Part, Store, caches, committed, kind_of, recorded, staged
from pipeline.cache.reader import find_store
from pipeline.cache.records import ANEW, Record, file_sum, require_file, require_record
from pipeline.cache.teacher_answers_canary import CANARIES
from pipeline.runtime import units
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.progress import progress

State = Literal["damaged", "pending", "stray"]
_LOG_FILES = {"identity.json", "log.jsonl", "repair.lock", CANARIES}


@dataclass(frozen=True)
class Finding:
    """Damage (an error), a part that is committed but not yet in place ("pending"), or a file of no committed part, which is
    never read ("stray")."""

    state: State
    part: Part | None
    reason: str


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found: of ``parts`` committed parts, ``whole`` ones match their records."""

    path: str
    kind: Kind
    identity: str
    views: int
    parts: int
    whole: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def damaged(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state == "damaged")


def targets_of(path: Path) -> list[Path]:
    """The caches at a path: itself, or all of a work pool. Raises UsageError if there are none."""
    if kind_of(path) is not None or (path / "commits").exists():  # a cache in a pool that has lost its identity
        return [path]
    found = caches(path)
    if not found:
        raise UsageError(f"{path}: neither a teacher cache nor a work pool with caches")
    return found


def verify(path: Path, pool: Path | None = None) -> Verification:
    """Checks metadata, records, size and xxh3 of every file of a published cache, a receipt's, or one in a pool. Damage is
    returned; raises UsageError if there is no cache."""
    # The kind of a damaged cache shows in what is left of it.
    kind: Kind = kind_of(path) or ("pool" if (path / STAGING).exists() else "published")
    try:
        store = find_store(path, pool)
    except (IntegrityError, UsageError) as error:
        if kind == "receipt" and isinstance(error, UsageError):  # no such pool here
            raise
        return Verification(str(path), kind, "", 0, 0, 0, 0, (Finding("damaged", None, str(error)),))
    there = recorded(store.path)
    views = store.views or _whole_views(there, store)
    parts = there if store.views is None else set(store.layout.parts(views))
    coming = set(staged(store.path).values())
    findings: list[Finding] = []
    whole = checked = 0
    with progress("verify", len(parts), "parts") as tick:
        for part in sorted(parts):
            try:
                record = require_record(store, part)
                require_files(store, record)
                whole, checked = whole + 1, checked + sum(size for size, _ in record.files.values())
            except IntegrityError as error:
                pending = part in coming and part not in committed(store)
                findings.append(Finding("pending" if pending else "damaged", part, str(error)))
            tick()
    findings += [Finding("stray", None, f"{name}: no committed part") for name in _strays(store, parts)]
    return Verification(str(path), kind, store.hash, views, len(parts), whole, checked, tuple(findings))


def require_files(store: Store, record: Record) -> None:
    """Raises IntegrityError unless every file of a part has the size and xxh3 of its record."""
    for array, expected in record.files.items():
        path = store.file_path(array, record.part)
        require_file(path, expected, file_sum(path))


def how_to_restore(report: Verification) -> str:
    """How to restore a damaged published copy, or what a receipt names: only DVC and the pool write them again."""
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


def _whole_views(parts: set[Part], store: Store) -> int:
    """V of a cache in a pool: the views that all shards have, from the first on."""
    groups = 0
    while all((groups, shard) in parts for shard in range(store.layout.shards)):
        groups += 1
    return groups * store.layout.group


def _strays(store: Store, parts: set[Part]) -> list[str]:
    """Files that belong to no part and are no metadata, relative to the cache."""
    names = _LOG_FILES | {"zarr.json"} | {f"{array}/zarr.json" for array in store.layout.arrays}
    known = {store.path / name for name in names} | {path for part in parts for path in store.paths(part)}
    found = set()
    for folder, folders, files_there in os.walk(store.path):
        if Path(folder) == store.path:
            folders[:] = [name for name in folders if name != STAGING]
        found |= {Path(folder) / name for name in files_there}
    return sorted(str(path.relative_to(store.path)) for path in found - known)


def report_text(report: Verification, result: Mapping[str, Any]) -> str:
    """The report for a person, with the keys "dropped" and "gc" of ``result``, if they are there."""
    size = f"{units.size(report.bytes)}, V = {report.views}"
    lines = [f"{report.path}: {report.whole} of {report.parts} parts whole ({size})"]
    lines += [f"  {finding.state}: {finding.reason}" for finding in report.findings]
    lines += [f"  {key}: {json.dumps(result[key])}" for key in ("dropped", "gc") if key in result]
    if result.get("dropped"):
        lines.append(
            f"  next: label the dropped parts again: python -m stages.precompute --cache NAME, or, of a receipt in DVC: {ANEW}"
        )
    return "\n".join(lines)
