"""Visits that a device draws: packed by workers, drawn ahead, with the pixels and digests of the CPU. On a GPU if there is
one, else by the same code on the CPU."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cache.reader import open_cache
from pipeline.data.listing import Entry, Split
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.config import validate
from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import device
from pipeline.student import train
from pipeline.student.train import make_schedule
from pipeline.training.batches import Batch, Loader
from pipeline.views import places, ring
from pipeline.views.choose import Visit
from pipeline.views.device import Drawer
from pipeline.views.drawn import draw_visit, draw_visit_here
from pipeline.views.recipe import Recipe
from pipeline.views.ring import ring_size
from pipeline.views.tasks import AlsoOnCpu
from pipeline.views.validation import views_of_rows
from pipeline.views.workers import VisitReader, read_visits
from tests.support.pictures import jpeg, procedural
from tests.support.world import World, make_world, named, student, training

ENGINE = "cuda" if device().type == "cuda" else "cuda-on-cpu"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_ENGINE", ENGINE)


def visits(world: World) -> list[Visit]:
    return [Visit(block.index, first, 3, 0) for first in (0, 3) for block in world.shards.blocks]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_device_draws_the_visits_that_the_cpu_draws(world: World, workers: int) -> None:
    wanted = visits(world)
    for visit, drawn in zip(wanted, read_visits(world.shards, world.recipe, wanted, 3, workers), strict=True):
        expected = draw_visit(world.shards, world.recipe, world.shards.blocks[visit.block], visit.first_view, 3)
        assert drawn.place >= 0 and drawn.digests == expected.digests
        assert torch.equal(drawn.pixels.cpu(), expected.pixels) and torch.equal(drawn.pairs, expected.pairs)


def test_a_few_views_in_the_process_with_the_device_have_the_bits_of_the_cpu(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, asked = world.shards.blocks[-1], []
    monkeypatch.setattr(Drawer, "draw", lambda *given, draw=Drawer.draw: asked.append(given) or draw(*given))
    there = draw_visit_here(world.shards, world.recipe, block, 3, 3)
    finished = views_of_rows(world.shards, [0, 5, 2], world.recipe)
    assert len(asked) > 2  # both, and the drawers' own tests
    monkeypatch.setenv("DISTIL_ENGINE", "kernels")
    here = draw_visit(world.shards, world.recipe, block, 3, 3)
    assert there.digests == here.digests and torch.equal(there.pixels, here.pixels)
    assert torch.equal(there.pairs, here.pairs) and torch.equal(there.labels, here.labels)
    assert torch.equal(finished, views_of_rows(world.shards, [0, 5, 2], world.recipe))


def test_visits_are_drawn_ahead_while_there_are_places(world: World) -> None:
    wanted = visits(world)
    with VisitReader(world.shards, world.recipe, wanted, ring_size(world.shards, world.recipe, 3, 1, held=2)) as reader:
        held = [next(reader), next(reader)]
        while len(reader._come) < 3:  # five places, two of them held
            reader.check()
            reader.draw_ahead()
        assert len({drawn.place for drawn in held}) == 2 and not reader._places.free
        reader.release(held.pop())
        assert len([*reader._come]) == 3 and len(reader._places.free) == 1


def taken(world: World, workers: int) -> Iterator[Batch]:
    config = training(world, 6, lanes=2, window=2)
    schedule = make_schedule(config, world.shards, 6)
    return Loader(schedule, range(2), world.shards, world.recipe, device(), workers).batches(0, 6)


@pytest.mark.parametrize("room", [100, 5, 3, 0])
def test_what_does_not_fit_on_the_device_stays_in_the_ring_and_batches_are_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Four visits are held: all of them fit, with one ahead, three of them, none."""
    size = ring_size(world.shards, world.recipe, 3, 1)
    monkeypatch.setattr(ring, "memory", lambda device: room * size.place)
    found = [batch.images for batch in taken(world, 1)]
    monkeypatch.setenv("DISTIL_ENGINE", "kernels")
    assert all(torch.equal(one, two.images) for one, two in zip(found, taken(world, 1), strict=True))


def test_memory_on_the_device_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "; 3 visits on the device: 885 kB" in str(ring_size(world.shards, world.recipe, 3, 1))
    monkeypatch.setenv("DISTIL_ENGINE", "kernels")
    assert "device" not in str(ring_size(world.shards, world.recipe, 3, 1))


def test_a_visit_that_the_cpu_draws_otherwise_ends_the_run(world: World) -> None:
    wanted = visits(world)
    assert (
        len(list(read_visits(world.shards, world.recipe, wanted, 3, 1, AlsoOnCpu(world.shards, world.recipe, 1)))) == 22
    )
    other = world.recipe.model_copy(update={"seed": world.recipe.seed + 1})
    with pytest.raises(
        IntegrityError, match=r"000000.tar, block 0, views from 0 on: \S+ draws other pixels than the CPU"
    ):
        next(read_visits(world.shards, world.recipe, wanted, 3, 1, AlsoOnCpu(world.shards, other, 1)))


def test_some_visits_are_drawn_twice_in_every_cache(world: World) -> None:
    also = AlsoOnCpu(world.shards, world.recipe, 4)
    due = [also(visit, world.shards.blocks[visit.block])[1] != () for visit in visits(world)]
    assert 0 < sum(due) < len(due)


def test_places_are_none_where_the_cpu_draws(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.drawer(world.recipe) is not None
    monkeypatch.delenv("DISTIL_ENGINE")
    assert places.drawer(world.recipe) is None


@pytest.mark.parametrize(("size", "large"), [(16, True), (96, False)])
def test_it_is_said_how_many_views_the_loader_processes_draw_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, large: bool
) -> None:
    data = jpeg(procedural(np.random.default_rng(0), 200, 150))
    split = Split([Entry(f"{i}", f"p{i}", 0, "jpg", len(data), data=data) for i in range(4)])
    config = validate(DataConfig, {"source": "folder", "shard_size": 4, "block": 4}, "data")
    pack_splits(config, ("a",), {"val": split}, tmp_path, 1)
    assert len(list(read_visits(Shards.open(tmp_path / "val"), Recipe(seed=0, size=size), [Visit(0, 0, 3, 0)], 3, 0)))
    told = "loader processes drew 12 of 12 views (100.0%), "
    said = "".join(capsys.readouterr())
    assert (told in said and "; 12 of them because an image much larger than its views is not sent" in said) == large


def losses(world: World, run: Path) -> list[str]:
    """Of four steps from the cache, all of whose views are compared, as hex floats."""
    seen: list[str] = []
    config = training(world, 4, verify_views="all", period=3)
    inputs = train.Inputs(world.shards, world.val, 3, open_cache(world.label("f16", 3).path), None, None)
    chosen = named(world, config, student("cached", "soft"))
    train.train_student(chosen, inputs, run, 1, lambda _, loss: seen.append(loss.hex()))
    return seen


def test_a_cache_of_one_engine_serves_a_training_under_the_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for labels, trains in (("kernels", ENGINE), (ENGINE, "kernels"), ("kernels", "kernels")):
        here = replace(world, root=tmp_path / f"{labels}-{trains}")
        shutil.copytree(world.root, here.root)
        monkeypatch.setenv("DISTIL_ENGINE", labels)
        here.label("f16", 3)
        monkeypatch.setenv("DISTIL_ENGINE", trains)
        found.append(losses(here, here.root / "run"))
    assert found[0] == found[1] == found[2] and len(found[0]) == 4
