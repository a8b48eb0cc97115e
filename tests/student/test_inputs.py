"""What a student learns from: the key of its run, and a cache that is not what the configuration says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.arrays import PartRows
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.reader import open_cache
from pipeline.student import train
from pipeline.student.inputs import Inputs, NamedStudent, run_key
from tests.support.world import World, make_world, named, student, training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.label("none", 3)
    return world


def inputs(world: World) -> train.Inputs:
    return Inputs(world.shards, world.val, 3, open_cache(world.label("none", 3).path), None, None)


def test_run_key_changes_with_what_decides_the_result_and_with_nothing_else(world: World) -> None:
    given, code = named(world, training(world, 12), student("cached", "hard")), ["pipeline/student/losses.py"]

    def key(student: NamedStudent, code: list[str] = code) -> str:
        return run_key(student, inputs(world), code)

    moved = given.config.model_copy(update={"cache": "of-another-name", "reference": 4.3, "note": "did not train"})
    assert key(dataclasses.replace(given, name="another", config=moved)) == key(given)
    assert key(given, [*code, "pipeline/training/loop.py"]) != key(given)
    assert key(dataclasses.replace(given, training=given.training.model_copy(update={"seed": 1}))) != key(given)
    assert key(dataclasses.replace(given, config=student("cached", "hard", alpha=0.4))) != key(given)


def test_rows_labelled_anew_under_the_same_identity_start_another_run(world: World, tmp_path: Path) -> None:
    given = inputs(world)
    assert given.cache is not None
    shape, source = given.cache.layout, world.shards.hashes
    pool = open_pool(tmp_path, given.cache.identity)
    for g, s in shape.parts(3):  # what other hardware might answer
        blocks = -(-shape.rows(s) // shape.block)
        hard, pixels = np.ones((3, shape.rows(s)), np.uint16), np.full((3, blocks), "0" * 16)
        commit_part(pool, PartRows((g, s), hard, None, pixels, source[s]))
    moved = dataclasses.replace(given, cache=open_cache(pool.path))
    cached, auto = (named(world, training(world, 12), student(way, "hard")) for way in ("cached", "auto"))
    assert run_key(cached, given, []) != run_key(cached, moved, [])
    assert run_key(auto, given, []) == run_key(auto, moved, [])  # a growing cache
