"""The identity of a teacher cache: all that decides its content, as plain JSON data."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.base import difference
from pipeline.base.sums import require_unchanged
from pipeline.base.weights import read_state, state_hash
from pipeline.cache.codec import codec_version
from pipeline.cache.layout import Layout
from pipeline.cache.reader import Cache
from pipeline.data.shards import Shards
from pipeline.views.canary import views_canary
from pipeline.views.recipe import ARITHMETIC, VIEWS_VERSION, Recipe

_REPAIR = (
    "label these views with: python -m stages.precompute --cache NAME (dvc repro does it after a change of params or shards), "
    "or go back to the configuration of this cache"
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
    if fields["shared_pairing"] == 1:  # its value before there was such a field: earlier caches still open
        del fields["shared_pairing"]
    turned = {} if shards.rule.orientation == "stored" else {"orientation": shards.rule.orientation}
    return turned | {
        "format": "offline-deit teacher cache 1",
        "recipe": fields,
        "engine": ARITHMETIC,
        "views_version": VIEWS_VERSION,
        "shards": list(shards.hashes),
        "classes": list(shards.classes),
        "canary": views_canary(recipe, device),
    }


def cache_identity(
    shards: Shards, recipe: Recipe, layout: Layout, teacher: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """The whole identity; its hash names the cache. ``teacher`` is ``Teacher.identity()``."""
    return views_identity(shards, recipe, device) | {
        "teacher": teacher,
        "layout": asdict(layout),
        "codec_version": codec_version(layout.codec),
    }


def require_identity(cache: Cache, expected: Mapping[str, Any], where: Path) -> None:
    """Raises IdentityError (exit 4) naming each field in which ``cache``, opened from ``where``, is another one."""
    machine = difference.machine_only(difference.differences(expected, cache.identity))
    repair = difference.OTHER_MACHINE if machine else _REPAIR
    difference.require_same(expected, cache.identity, str(where), repair)


def require_views(cache: Cache, shards: Shards, recipe: Recipe, device: torch.device, where: Path) -> None:
    """Raises IdentityError (exit 4) naming each field in which ``cache`` was made of other views than these."""
    expected = cache.identity | views_identity(shards, recipe, device)
    require_identity(cache, expected, where)


def require_maker(cache: Cache, layout: Layout, teacher: dict[str, Any], where: Path) -> None:
    """Raises IdentityError if ``cache`` has another layout or codec, or was made by another teacher than the
    ``teacher`` of the config (its weights are known only to who loads them)."""
    made_by = cache.identity["teacher"]
    same = {key: teacher[key] for key in made_by if key in teacher and key != "weights"}
    decided = {"layout": asdict(layout), "codec_version": codec_version(layout.codec)}
    expected = cache.identity | {"teacher": made_by | same} | decided
    require_identity(cache, expected, where)


def require_weights(cache: Cache, file: Path, where: Path) -> None:
    """Raises IdentityError if ``cache``, opened from ``where``, was made by other weights than those in ``file``, the
    teacher's, where that is there (a training from a cache alone needs no teacher); IntegrityError if it is damaged."""
    if file.is_file():
        require_unchanged(file)
        made_by = {**cache.identity["teacher"], "weights": state_hash(read_state(file))}
        require_identity(cache, {**cache.identity, "teacher": made_by}, where)
