"""A teacher cache as files: where it lies, of which identity, which parts are there (layer L1). Reads only."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files, layout
from pipeline.layout import Layout, Part
from pipeline.runtime import IntegrityError, UsageError

CACHES = "caches"
STAGING = "staging"
Pins = tuple[tuple[str, ...], ...]  # checksums of records, [g][s]


@dataclass(frozen=True)
class Store:
    """A cache as files: its directory, its identity with the sha256 of it, its layout.

    ``views``: V, None for a cache in the pool, which need not be complete; ``pinned``: the records that a receipt names.
    """

    path: Path
    identity: dict[str, Any]
    hash: str
    layout: Layout
    views: int | None = None
    pinned: Pins | None = None

    def record_path(self, part: Part) -> Path:
        return self.path / layout.record_key(part)

    def file_path(self, array: str, part: Part) -> Path:
        return self.path / layout.file_key(array, part)

    def paths(self, part: Part) -> list[Path]:
        """The files of a part, then its record."""
        return [*(self.file_path(array, part) for array in self.layout.arrays), self.record_path(part)]


def store_of(path: Path, identity: dict[str, Any], views: int | None = None, pinned: Pins | None = None) -> Store:
    """The store of an identity. Raises IntegrityError if that names no valid layout."""
    try:
        shape = Layout(**identity["layout"])
    except (KeyError, TypeError, UsageError) as error:
        raise IntegrityError(f"{path}: the identity holds no valid layout: {error}") from None
    return Store(path, identity, files.digest(identity), shape, views, pinned)


def cache_path(root: Path, identity_hash: str) -> Path:
    return root / CACHES / identity_hash[:12]


def caches(root: Path) -> list[Path]:
    """The directories of all caches in a pool."""
    folder = root / CACHES
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_identity(cache: Path) -> dict[str, Any]:
    """The identity of a cache in a pool. Raises UsageError (there is none), IntegrityError (damaged)."""
    path = cache / "identity.json"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{cache}: no teacher cache (no identity.json)") from None
    try:
        identity = json.loads(content)
        whole = files.canonical_json(identity) == content and files.digest(identity)[:12] == cache.name
    except (ValueError, TypeError):
        whole = False
    if not whole or not isinstance(identity, dict):
        raise IntegrityError(
            f"{path}: damaged: its hash is not the directory's name {cache.name}; "
            f"remove this one file and run precompute, which writes it again"
        )
    return identity


def committed(store: Store) -> set[Part]:
    """The parts that are committed and in place, by listing names only."""
    parts = recorded(store.path) & _parts(_nested(store.path / "hard" / "c"), r"(\d+)/(\d+)")
    if "logits" in store.layout.arrays:
        parts &= _parts(_names(store.path / "logits"), r"c\.(\d+)\.(\d+)\.\d+")
    return parts


def is_committed(store: Store, part: Part) -> bool:
    """Whether a part is committed and in place now (asked again before a job starts on it)."""
    return all(path.is_file() for path in store.paths(part))


def recorded(cache: Path) -> set[Part]:
    """The parts that have a record, whether or not their files are in place."""
    return _parts(_nested(cache / "commits"), r"(\d+)/(\d+)\.json")


def staged(cache: Path) -> dict[Path, Part]:
    """Every attempt's directory with its part, in the order of their names."""
    names = sorted(_names(cache / STAGING))
    return {cache / STAGING / name: part for name in names for part in _parts([name], r"(\d+)\.(\d+)\.[^.]*")}


def _parts(names: Iterable[str], form: str) -> set[Part]:
    """The (g, s) in those of ``names`` that have this form; others are not ours."""
    matches = map(re.compile(form, re.ASCII).fullmatch, names)
    return {(int(found[1]), int(found[2])) for found in matches if found}


def _nested(folder: Path) -> Iterable[str]:
    """The names ``<entry>/<entry>`` two levels below a folder."""
    return (f"{name}/{inner}" for name in _names(folder) for inner in _names(folder / name))


def _names(folder: Path) -> list[str]:
    """The names in a folder; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
