"""The teacher asked again: only if it made the cache, and on the cache's own shards."""

from dataclasses import replace

import pytest

from pipeline.cache.layout import CacheConfig
from pipeline.report.inspect_cache import inspect_cache
from pipeline.runtime.errors import IdentityError
from pipeline.teacher.audit import audit
from tests.support.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_the_teacher_is_asked_again_only_if_it_made_the_cache(world: World) -> None:
    path = world.label("none", 3).path
    made = world.labelled(CacheConfig(recipe="r", teacher="t", views=3, group=3, codec="none"))
    found = audit(path, made, world.work, 1, 0, 0)
    assert found.problems == [] and found.equal == found.hard_equal == found.rows > 0
    assert replace(found, pixels_equal=0).problems and replace(found, hard_equal=found.rows // 2).problems
    with pytest.raises(IdentityError, match=r"teacher.precision: expected 'bf16', found 'fp32'"):
        other = world.config.model_copy(update={"precision": "bf16"})
        audit(path, replace(made, teacher=other), world.work, 1, 0, 0)


def test_a_cache_is_not_judged_by_other_shards(world: World) -> None:
    path = world.label("none", 3).path
    assert inspect_cache(path, world.shards)["answers"]["top1"] is not None
    with pytest.raises(IdentityError, match="give the shards that it labels"):
        inspect_cache(path, world.val)
