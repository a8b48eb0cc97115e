"""A teacher cache as parts and files: how many, where each lies, and which are there. It writes nothing."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.base import files
from pipeline.base.constraints import require_groups
from pipeline.cache.codec import CodecName, require_codec
from pipeline.data.shards import Shards
from pipeline.runtime.config import Config, load
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.views.recipe import Recipe

Part = tuple[int, int]  # (view group g, shard s)


@dataclass(frozen=True)
class Layout:
    """N samples, C classes, S samples per shard, b per block, G views per group, codec of the logits."""

    samples: int
    classes: int
    shard_size: int
    block: int
    group: int
    codec: str

    def __post_init__(self) -> None:
        require_codec(self.codec, self.classes)
        for name in ("samples", "shard_size", "block", "group"):
            if getattr(self, name) < 1:
                raise UsageError(f"layout.{name}: expected at least 1, found {getattr(self, name)}")
        if self.shard_size % self.block:
            raise UsageError(f"layout.block: {self.block} does not divide the shard size {self.shard_size}")

    @property
    def shards(self) -> int:
        return -(-self.samples // self.shard_size)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the stored arrays, which are also the names of the files of a part."""
        return ("hard",) if self.codec == "none" else ("hard", "logits")

    def rows(self, shard: int) -> int:
        """Samples in a shard: S, fewer in the last."""
        return min(self.shard_size, self.samples - shard * self.shard_size)

    def blocks(self, shard: int) -> int:
        return -(-self.rows(shard) // self.block)

    def block_rows(self, shard: int, block: int) -> int:
        """Samples in block ``block`` of a shard: b, fewer in the last of the last shard."""
        return min(self.block, self.rows(shard) - block * self.block)

    def groups(self, views: int) -> int:
        """V / G. Raises UsageError when G does not divide V."""
        require_groups(views, self.group)
        return views // self.group

    def views_of(self, group: int) -> range:
        """The views of a view group."""
        return range(group * self.group, (group + 1) * self.group)

    def parts(self, views: int) -> Iterator[Part]:
        """Every part of a cache of V views: group by group, and inside a group shard by shard."""
        return ((g, s) for g in range(self.groups(views)) for s in range(self.shards))


def file_key(array: str, part: Part) -> str:
    """Zarr's key of the one chunk (or Zarr shard) that a part has in an array, relative to the cache."""
    g, s = part
    return f"hard/c/{g}/{s}" if array == "hard" else f"{array}/c.{g}.{s}.0"


def record_key(part: Part) -> str:
    """The path of a part's commit record, relative to the cache."""
    return f"commits/{part[0]}/{part[1]}.json"


class CacheConfig(Config):
    """What a teacher cache holds: the logits and hard labels of ``teacher`` on views of ``recipe``."""

    recipe: str
    """Name of the recipe of its views."""
    teacher: str
    """Name of the teacher that labels them."""
    views: int = Field(ge=1, le=1_000_000)
    """Stored views of every sample (V), a multiple of ``group``. More of them label only the new views."""
    group: int = Field(ge=1, le=1_000_000)
    """Views in one part (G); a training's ``repeats`` divides it. Another group makes another cache."""
    codec: CodecName
    """How logits are stored: ``none`` (hard labels only), ``topK`` (K from 4 to 255 and below C: the largest logits and one
    value for the rest; ``top16`` takes 52 bytes per view at 1,000 classes), ``u8`` (1 byte per class), ``f16`` (2 bytes)."""
    publish_max: int = Field(default=20_000_000_000, ge=0)
    """Bytes; a larger cache stays in the work pool, and DVC's output is a receipt of it."""

    @model_validator(mode="after")
    def _whole_groups(self) -> "CacheConfig":
        require_groups(self.views, self.group)
        return self


@dataclass(frozen=True)
class NamedCache:
    """A cache of params.yaml with the recipe of its views; its teacher, of a room above, is a name here."""

    name: str
    config: CacheConfig
    recipe: Recipe

    @classmethod
    def load(cls, params: Path, name: str) -> "NamedCache":
        config = load(params, f"caches.{name}", CacheConfig)
        return cls(name, config, load(params, f"recipes.{config.recipe}", Recipe))


def layout_of(shards: Shards, config: CacheConfig) -> Layout:
    """The layout of a cache that answers for all samples of a split."""
    return Layout(
        samples=shards.samples,
        classes=len(shards.classes),
        shard_size=shards.shard_size,
        block=shards.block_size,
        group=config.group,
        codec=config.codec,
    )


CACHES = "caches"
STAGING = "staging"
RECEIPT = "receipt.json"
Kind = Literal["published", "receipt", "pool"]
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
        return self.path / record_key(part)

    def file_path(self, array: str, part: Part) -> Path:
        return self.path / file_key(array, part)

    def paths(self, part: Part) -> list[Path]:
        """The files of a part, then its record."""
        return [*(self.file_path(array, part) for array in self.layout.arrays), self.record_path(part)]


def kind_of(path: Path) -> Kind | None:
    """Whether a directory is a published cache (Zarr metadata), a receipt, or a cache in a pool; None for no cache."""
    names: dict[Kind, str] = {"receipt": RECEIPT, "published": "zarr.json", "pool": "identity.json"}
    return next((kind for kind, name in names.items() if (path / name).exists()), None)


def store_of(path: Path, identity: dict[str, Any], views: int | None = None, pinned: Pins | None = None) -> Store:
    """The store of an identity. Raises IntegrityError if its layout is not valid."""
    try:
        shape = Layout(**identity["layout"])
    except (KeyError, TypeError, UsageError) as error:
        raise IntegrityError(f"{path}: the identity holds no valid layout: {error}") from None
    return Store(path, identity, files.digest(identity), shape, views, pinned)


def cache_path(root: Path, identity_hash: str) -> Path:
    """The directory of one cache in a pool, named by the first 12 digits of its identity."""
    return root / CACHES / identity_hash[:12]


def caches(root: Path) -> list[Path]:
    """The directories of all caches in a pool."""
    folder = root / CACHES
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_identity(cache: Path) -> dict[str, Any]:
    """The identity of a cache in a pool. Raises UsageError (there is none), IntegrityError (damaged)."""
    path = cache / "identity.json"
    try:
        content = files.read_small(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{cache}: no teacher cache (no identity.json)") from None
    try:
        identity = files.parse_json(content)
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
    """The (g, s) in those of ``names`` that have this form."""
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
