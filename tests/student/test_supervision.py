"""Targets from a cache or a live teacher: what is missing is asked for, what is damaged or of other pixels is refused."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.reader import open_cache
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.student import train
from pipeline.student.inputs import Inputs
from pipeline.student.supervision import FromCache, sources
from pipeline.views.choose import Visit
from pipeline.views.drawn import draw_visit
from pipeline.views.workers import read_visits
from tests.support.world import World, make_world, named, student, training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.label("f16", 6)
    return world


def test_live_targets_are_the_cached_ones_to_the_last_bit(world: World) -> None:
    cache = open_cache(world.label("u8", 3).path)
    live = world.live("u8")
    for block in world.shards.blocks:
        drawn = draw_visit(world.shards, world.recipe, block, 0, 3)
        kept, found = cache.read(block, 0, 3), live(drawn)()
        assert np.array_equal(kept.hard, found.hard)
        assert kept.logits is not None and found.logits is not None
        assert kept.logits.tobytes() == found.logits.tobytes()


def test_hard_labels_differ_between_views_so_that_the_proofs_prove_something(world: World) -> None:
    cache = open_cache(world.label("f16", 6).path)
    hard = np.concatenate([cache.read(block, 0, 6).hard for block in world.shards.blocks], axis=1)
    assert len(np.unique(hard)) > 1 and (hard != hard[:1]).any()


def test_other_pixels_stop_the_run_and_name_shard_block_and_view(world: World) -> None:
    cache = open_cache(world.label("f16", 6).path)
    lookup = FromCache(cache, world.shards, 1.0, partial=False)
    block = world.shards.blocks[4]
    drawn = draw_visit(world.shards, world.recipe, block, 3, 3)
    targets, digests = lookup(Visit(4, 3, 3, 1), block)
    assert targets is not None and digests == drawn.digests
    other = dataclasses.replace(drawn, digests=(drawn.digests[0], "0" * 16, drawn.digests[2]))
    with pytest.raises(IntegrityError, match=r"shard 000001.tar, block 4, view 4: other pixels than the teacher saw"):
        lookup.refuse(other)
    first_only = FromCache(cache, world.shards, "first_cycle", partial=False)
    assert first_only(Visit(4, 3, 3, 1), block)[1] == () and first_only(Visit(4, 3, 3, 0), block)[1] == drawn.digests


@pytest.mark.parametrize("workers", [0, 1])
def test_a_visit_of_other_pixels_is_refused_before_it_is_handed_out(
    world: World, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    cache = open_cache(world.label("f16", 6).path)
    moved = world.recipe.model_copy(update={"seed": world.recipe.seed + 1})
    visits = [Visit(block.index, 0, 3, 0) for block in world.shards.blocks]
    for verify, recipe, seen in (
        (1.0, world.recipe, len(visits)),
        (0.0, moved, len(visits)),
        ("first_cycle", moved, 0),
    ):
        stream = read_visits(world.shards, recipe, visits, 3, workers, FromCache(cache, world.shards, verify, False))
        if seen:
            assert len(list(stream)) == seen
        else:
            with pytest.raises(
                IntegrityError, match=r"shard 000000.tar, block 0, view 0: other pixels than the teacher"
            ):
                next(stream)


def test_a_cache_that_holds_too_few_views_or_parts_is_refused_with_what_is_missing(
    world: World, tmp_path: Path
) -> None:
    whole = open_cache(world.label("f16", 6).path)
    with pytest.raises(UsageError, match="K = 9 views, and its cache holds V = 6"):
        sources("cached", 9, 1.0, world.shards, whole, None)
    half = dataclasses.replace(world, root=tmp_path)
    shutil.copytree(world.weights.parent, tmp_path / "teachers" / "t")
    part = open_cache(half.label("none", 6, "1/2").path, views=6)
    with pytest.raises(UsageError, match=r"every part of views 0\.\.5, and 3 are missing: .*\(0, 1\)"):
        sources("cached", 6, 1.0, world.shards, part, None)
    with pytest.raises(UsageError, match="need the teacher's weights"):
        sources("auto", 6, 1.0, world.shards, part, None)


def test_auto_counts_what_the_live_teacher_labelled(world: World) -> None:
    cache = open_cache(world.label("f16", 6).path)
    inputs = Inputs(world.shards, world.val, 6, cache, world.live("f16"), None)
    config = training(world, 40, period=12, repeats=1, window=1)
    trained = train.train_student(named(world, config, student("auto", "hard")), inputs, world.root / "runs", 0)
    shares = [row["live_fraction"] for row in trained.rows]
    assert 0 < sum(shares) / len(shares) < 1  # views 0-5 from the cache, 6-11 live


def test_a_damaged_part_is_an_error_and_never_a_silent_fall_back(world: World, tmp_path: Path) -> None:
    other = make_world(tmp_path)
    pool = other.label("none", 6)
    path = pool.path / "hard/c/0/1"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    lookup = FromCache(open_cache(pool.path), other.shards, 1.0, partial=True)
    block = other.shards.blocks[4]
    with pytest.raises(IntegrityError):
        lookup(Visit(4, 0, 3, 0), block)
