"""Training with few labels: a keyed, stratified, nested choice; an image without a label gives none."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cache.reader import open_cache
from pipeline.data.shards import UNKNOWN, Shards
from pipeline.runtime.machine import device
from pipeline.student import train
from pipeline.student.inputs import Inputs
from pipeline.student.losses import smoothed_mixed_target
from pipeline.training import labelled
from pipeline.training.batches import Loader
from pipeline.training.labelled import choose_labelled, with_labels_of
from pipeline.views.drawn import draw_visit
from tests.support.world import World, make_world, named, student, training


@pytest.fixture(autouse=True)
def own_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def everything(shards: Shards) -> dict[str, int]:
    return {sample.key: sample.label for block in shards.blocks for sample in shards.read(block)}


def test_the_choice_is_stratified_nested_and_keyed(world: World) -> None:
    labels = np.concatenate([world.shards.labels(block) for block in world.shards.blocks])
    few, more = (choose_labelled(world.shards, count, 0) for count in (3, 7))
    assert set(Counter(labels[few].tolist()).values()) == {3} and few.sum() == 30
    assert set(Counter(labels[more].tolist()).values()) == {7} and (more | ~few).all()
    assert (few != choose_labelled(world.shards, 3, 1)).any()
    assert choose_labelled(world.shards, 10_000, 0).all(), "a class of fewer keeps all"


def test_unlabelled_images_are_drawn_without_their_label(world: World) -> None:
    kept = choose_labelled(world.shards, 5, 0)
    partly = pickle.loads(pickle.dumps(world.shards.with_labels(kept, only=False)))
    before, after = everything(world.shards), everything(partly)
    assert list(before) == list(after)
    known = {key for key, label in after.items() if label != UNKNOWN}
    assert len(known) == 50 and all(after[key] == before[key] for key in known)
    block = world.shards.blocks[2]
    views = [draw_visit(shards, world.recipe, block, 0, 3) for shards in (world.shards, partly)]
    assert views[0].digests == views[1].digests and UNKNOWN in views[1].labels


def test_labelled_images_alone_are_blocks_of_their_own(world: World) -> None:
    kept = choose_labelled(world.shards, 5, 0)
    only = pickle.loads(pickle.dumps(world.shards.with_labels(kept, only=True)))
    before, after = everything(world.shards), everything(only)
    assert after == {key: before[key] for key, known in zip(before, kept) if known}
    assert [block.samples for block in only.blocks] == [25, 25]  # 50 in blocks of at most 32: none is left alone
    assert only.samples == 50 and only.manifest.samples == world.shards.samples


def test_an_undistilled_student_trains_as_many_steps_on_labelled_images_only(world: World) -> None:
    config = training(world, 12, labelled_per_class=5, batch=32)
    only = with_labels_of(world.shards, config, only=True)
    schedule = train.make_schedule(config, only, 0)
    assert schedule.steps(config.epochs) == train.make_schedule(config, world.shards, 0).steps(config.epochs) == 25
    seen = Counter[int]()
    for batch in Loader(schedule, range(2), only, world.recipe, device(), 0).batches(0, 12):
        assert (batch.labels >= 0).all() and (batch.partner_labels >= 0).all() and len(batch.labels) == 32
        seen.update(batch.labels.tolist())
    assert set(seen) == set(range(10)) and max(seen.values()) < 2 * min(seen.values())


def test_a_distilled_student_learns_from_the_teacher_on_all_and_from_the_labels_of_some(
    world: World, tmp_path: Path
) -> None:
    cache = open_cache(world.label("none", 3).path)
    inputs = Inputs(world.shards, world.val, 3, cache, None, None)
    config = training(world, 3, labelled_per_class=5)
    trained = train.train_student(named(world, config, student("cached", "hard")), inputs, tmp_path, 0)
    # heads start at zero, so a known label costs ln 10 and an unknown one nothing: 50 of 349 are known
    assert trained.rows[0]["task"] == pytest.approx(np.log(10) * 50 / 349, rel=0.5)
    assert trained.rows[0]["distill"] == pytest.approx(np.log(10), rel=0.2)


def test_batches_hold_unknown_labels_and_the_target_leaves_them_out(world: World) -> None:
    config = training(world, 4, labelled_per_class=5)
    partly = with_labels_of(world.shards, config, only=False)
    schedule = train.make_schedule(config, partly, 3)
    for batch in Loader(schedule, range(2), partly, world.recipe, device(), 0).batches(0, 4):
        target = smoothed_mixed_target(batch.labels, batch.partner_labels, batch.lam, 10, 0.1)
        known = batch.lam * (batch.labels >= 0) + (1 - batch.lam) * (batch.partner_labels >= 0)
        assert torch.allclose(target.sum(1), known, atol=1e-6)
        assert 0 < known.mean() < 0.5


def test_without_the_key_nothing_changes(world: World) -> None:
    assert with_labels_of(world.shards, training(world, 1), only=True) is world.shards


def test_the_choice_is_kept_in_the_pool_and_made_again_where_that_is_damaged(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = training(world, 3, labelled_per_class=5)
    first = with_labels_of(world.shards, config, only=False).labelled
    (kept,) = (tmp_path / "pool" / "labelled").iterdir()
    content, asked = kept.read_bytes(), []
    monkeypatch.setattr(labelled, "choose_labelled", lambda *of: asked.append(of) or choose_labelled(*of))
    assert np.array_equal(with_labels_of(world.shards, config, only=False).labelled, first) and not asked
    for damage in (content[:-1], content[:9] + bytes([content[9] ^ 1]) + content[10:], b""):
        kept.write_bytes(damage)
        assert np.array_equal(with_labels_of(world.shards, config, only=False).labelled, first)
    assert len(asked) == 3 and kept.read_bytes() == content
    with_labels_of(world.val, config, only=False)
    assert len(asked) == 4
