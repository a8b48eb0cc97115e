"""The identity of a teacher cache: all that decides its content, as plain JSON data (layer L2)."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from pipeline import difference
from pipeline.cache import Cache
from pipeline.canary import canary
from pipeline.config import Config
from pipeline.layout import Layout
from pipeline.runtime import UsageError
from pipeline.shards import Shards
from pipeline.targets import CODEC_VERSION, CodecName
from pipeline.views import VIEWS_VERSION, Recipe

_REPAIR = (
    "label these views with: python -m stages.precompute (dvc repro does it after a change of params or shards), or go back "
    "to the configuration of this cache"
)


class CacheConfig(Config):
    """What a teacher cache holds. ``views``: V; ``group``: G, the views that one part holds."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    views: int = Field(ge=1)
    group: int = Field(ge=1)
    codec: CodecName
    repeats: int = Field(default=3, ge=1)  # views drawn per decoded image; changes speed only, no byte
    publish_max: int = Field(default=20_000_000_000, ge=0)  # bytes; above, the DVC out is a receipt

    @model_validator(mode="after")
    def _whole_groups(self) -> "CacheConfig":
        if self.views % self.group:
            raise ValueError(
                f"views V = {self.views} is no multiple of group G = {self.group}; a cache grows by whole groups"
            )
        if self.group % self.repeats:
            raise ValueError(
                f"group G = {self.group} is no multiple of repeats r = {self.repeats}; choose a divisor of G"
            )
        return self


def check_repeats(repeats: int, group: int) -> None:
    """Raises UsageError unless r divides G, so that no visit lies in two parts of a cache."""
    if group % repeats:
        raise UsageError(
            f"train.repeats: r = {repeats} does not divide cache.group G = {group}, so a visit would lie in two parts of "
            f"the cache; choose a divisor of G"
        )


def layout_of(shards: Shards, config: CacheConfig) -> Layout:
    return Layout(
        samples=shards.samples,
        classes=len(shards.classes),
        shard_size=shards.shard_size,
        block=shards.block_size,
        group=config.group,
        codec=config.codec,
    )


def views_identity(shards: Shards, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """What decides the views: recipe, versions, shards, classes, and the canary, which is drawn here and now.

    Fields of the recipe that its crop does not use are left out: another evaluation crop is no other training cache.
    """
    unused = {
        "random_resized": {"padding", "crop_fraction"},
        "random_padded": {"scale", "ratio", "crop_fraction"},
    }
    fields = recipe.model_dump(mode="json", exclude=unused.get(recipe.crop, {"scale", "ratio", "padding"}))
    engine = fields.pop("engine")
    return {
        "format": "offline-deit teacher cache 1",
        "recipe": fields,
        "engine": engine,
        "views_version": VIEWS_VERSION,
        "shards": list(shards.hashes),
        "classes": list(shards.classes),
        "canary": canary(recipe, device),
    }


def cache_identity(
    shards: Shards, recipe: Recipe, layout: Layout, teacher: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """The whole identity; its hash names the cache. ``teacher`` is ``Teacher.identity()``."""
    return views_identity(shards, recipe, device) | {
        "teacher": teacher,
        "layout": asdict(layout),
        "codec_version": CODEC_VERSION,
    }


def require_identity(cache: Cache, expected: Mapping[str, Any], where: Path) -> None:
    """Raises IdentityError (exit 4) naming each field in which ``cache``, opened from ``where``, is another one."""
    machine = difference.machine_only(difference.differences(expected, cache.identity))
    repair = difference.OTHER_MACHINE if machine else _REPAIR
    difference.require_same(expected, cache.identity, str(where), repair)


def check_views(cache: Cache, shards: Shards, recipe: Recipe, device: torch.device, where: Path) -> None:
    """Raises IdentityError (exit 4) naming each field in which ``cache`` was made of other views than these."""
    expected = cache.identity | views_identity(shards, recipe, device)
    require_identity(cache, expected, where)


def check_maker(cache: Cache, layout: Layout, teacher: dict[str, Any], where: Path) -> None:
    """Raises IdentityError if ``cache`` has another layout or codec, or was made by another teacher than the
    ``teacher`` of the config (its weights are known only to who loads them)."""
    made_by = cache.identity["teacher"]
    same = {key: teacher[key] for key in made_by if key in teacher and key != "weights"}
    decided = {"layout": asdict(layout), "codec_version": CODEC_VERSION}
    expected = cache.identity | {"teacher": made_by | same} | decided
    require_identity(cache, expected, where)
