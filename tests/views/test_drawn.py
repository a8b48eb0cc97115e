"""A visit, drawn: into the memory that it is given."""

import numpy as np
import pytest

from pipeline.views.drawn import draw_visit
from tests.support.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_visit_is_drawn_into_the_memory_that_it_is_given(world: World) -> None:
    block, size = world.shards.blocks[-1], world.recipe.size
    memory = np.full((3, block.samples, 3, size, size), 9, np.uint8)
    given = draw_visit(world.shards, world.recipe, block, 3, 3, memory)
    fresh = draw_visit(world.shards, world.recipe, block, 3, 3)
    assert given.pixels.data_ptr() == memory.ctypes.data and given.digests == fresh.digests
    assert np.array_equal(memory, fresh.pixels.numpy())
