"""What a cache is of: another recipe, image library, teacher or codec is refused with both values."""

import dataclasses

import pytest

from pipeline.cache.identity import require_identity, require_maker, require_views, views_identity
from pipeline.cache.reader import Cache, open_cache
from pipeline.runtime.errors import IdentityError
from pipeline.runtime.machine import device
from pipeline.views.recipe import evaluation
from tests.support.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cache(world: World) -> Cache:
    return open_cache(world.label("none", 3).path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 2}, "recipe.seed"),
        ({"size": 24}, "recipe.size"),
        ({"interpolation": "bilinear"}, "recipe.interpolation"),
        ({"policy": "rand-m8-mstd0.5-inc1"}, "recipe.policy"),
        ({"mean": (0.5, 0.5, 0.5)}, r"recipe.mean\[0\]"),
        ({"shared_pairing": 3}, "recipe.shared_pairing"),
    ],
)
def test_a_cache_of_another_recipe_is_refused_with_both_values(
    world: World, cache: Cache, change: dict, field: str
) -> None:
    require_views(cache, world.shards, world.recipe, device(), cache.path)
    with pytest.raises(IdentityError, match=field):
        require_views(cache, world.shards, world.recipe.model_copy(update=change), device(), cache.path)


def test_a_recipe_without_shared_pairing_has_the_identity_that_it_had_before_there_was_one(
    world: World, cache: Cache
) -> None:
    assert "shared_pairing" not in cache.identity["recipe"]
    shared = world.recipe.model_copy(update={"shared_pairing": 3})
    assert views_identity(world.shards, shared, device())["recipe"]["shared_pairing"] == 3
    assert views_identity(world.val, evaluation(shared), device()) == views_identity(
        world.val, evaluation(world.recipe), device()
    ), "validation has no pairs"


def test_a_cache_of_another_image_library_is_refused_with_both_ways_out(world: World, cache: Cache) -> None:
    other = cache.identity | {"canary": "0" * 64}
    with pytest.raises(IdentityError, match=r"(?s)canary: expected '0000.*log\.jsonl.*--new-cache") as refusal:
        require_identity(cache, other, cache.path)
    assert "configuration" not in str(refusal.value)
    with pytest.raises(IdentityError, match="go back to the configuration of this cache"):
        require_identity(cache, other | {"views_version": 0}, cache.path)


def test_a_cache_made_by_another_teacher_or_codec_than_the_config_says_is_refused(world: World, cache: Cache) -> None:
    teacher = world.config.model_dump(mode="json")
    require_maker(cache, cache.layout, teacher, cache.path)
    with pytest.raises(IdentityError, match=r"teacher.arch: expected 'test_resnet', found 'test_byobnet'"):
        require_maker(cache, cache.layout, teacher | {"arch": "test_resnet"}, cache.path)
    with pytest.raises(IdentityError, match=r"layout.codec: expected 'u8', found 'none'"):
        require_maker(cache, dataclasses.replace(cache.layout, codec="u8"), teacher, cache.path)
