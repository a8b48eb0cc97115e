"""``manifest.json``: what one split of shards holds, with a hash of every file."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.base import files
from pipeline.data.images import MAX_PIXELS
from pipeline.runtime.config import Config, validate
from pipeline.runtime.errors import IntegrityError, UsageError

REPAIR = "write the shards again: dvc repro -f shard (or python -m stages.shard)"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ShardRecord(Config):
    name: str = Field(pattern=r"^\d{6}\.tar$")
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: Sha256
    index_sha256: Sha256


class Quarantined(Config):
    path: str
    reason: str


class Manifest(Config):
    """``manifest.json``: what one split holds."""

    format: Literal["offline-deit shards"] = "offline-deit shards"
    version: Literal[1] = 1
    split: Literal["train", "val"]
    classes: tuple[str, ...]
    samples: int = Field(ge=1)
    shard_size: int = Field(ge=2)
    block: int = Field(ge=2)
    shards: tuple[ShardRecord, ...]
    quarantined: tuple[Quarantined, ...]
    orientation: Literal["stored", "upright"] = "stored"
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    val_share: float | None = Field(None, gt=0, lt=1)  # of each class, held out by a keyed hash; None: a val of its own

    def content(self) -> bytes:
        """The file's bytes. The last three fields are left out where they have their default, so that manifests made before
        there were such fields, and all hashes of them, stay the same."""
        fields = self.model_dump(mode="json")
        for name in ("orientation", "max_pixels", "val_share"):
            if fields[name] == type(self).model_fields[name].default:
                del fields[name]
        return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode("ascii")


def read_manifest(content: bytes, path: Path) -> Manifest:
    """Checks form, version and sums of a manifest. Raises IntegrityError that names the field."""
    try:
        manifest = validate(Manifest, files.parse_json(content), str(path))
    except ValueError as error:
        raise IntegrityError(f"{path}: not a manifest: {error}; {REPAIR}") from None
    except UsageError as error:
        raise IntegrityError(f"{error}; {REPAIR}") from None
    counts = [record.samples for record in manifest.shards]
    full = all(count == manifest.shard_size for count in counts[:-1])
    if sum(counts) != manifest.samples or not full or max(counts, default=0) > manifest.shard_size:
        raise IntegrityError(f"{path}: {manifest.samples} samples, but the shards hold {sum(counts)}; {REPAIR}")
    if [record.name for record in manifest.shards] != [shard_name(i) for i in range(len(counts))]:
        raise IntegrityError(f"{path}: shards are not 000000.tar, 000001.tar, ... in order; {REPAIR}")
    return manifest


def shard_name(shard: int) -> str:
    return f"{shard:06d}.tar"


def index_path(root: Path, name: str) -> Path:
    """``index/000000.npz`` for the shard ``000000.tar``."""
    return root / "index" / f"{name.removesuffix('.tar')}.npz"
