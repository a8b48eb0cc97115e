"""A training loop of one's own: the batches and losses of ``stages.train``, the rows of a cache, a door without torch."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Shards
from pipeline.runtime.errors import IdentityError, UsageError
from pipeline.student import train
from pipeline.student.inputs import Inputs
from pipeline.student.own_loop import KeyedRows, Run
from pipeline.training.optimizer import make_scheduler
from pipeline.training.step import Stepper
from tests.support.world import World, make_world, named, student, training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.label("f16", 3)
    return world


def test_twenty_steps_of_a_loop_of_ones_own_have_the_losses_of_ours(world: World, tmp_path: Path) -> None:
    entry = named(world, training(world, 20, period=3), student("cached", "soft"))
    inputs = Inputs(world.shards, world.val, 3, open_cache(world.label("f16", 3).path), None, None)
    expected: list[float] = []
    train.train_student(entry, inputs, tmp_path, 0, lambda _, loss: expected.append(loss))

    run = Run(entry, inputs, train.make_loader(entry, inputs, 0))
    model, how, losses = run.model(), entry.training, list[float]()
    torch.manual_seed(how.seed)
    stepper = Stepper(model, how, torch.device("cpu"))
    scheduler = make_scheduler(stepper.optimizer, how.optimizer, run.steps, run.loader.schedule.steps_per_epoch())
    model.train()
    for step, batch in enumerate(run.batches()):
        scheduler.step_update(step)
        loss = run.loss(model(batch.images), batch)
        stepper.optimizer.zero_grad()
        loss.backward()
        stepper.optimizer.step()
        losses.append(float(loss.detach()))
    assert run.steps == 20 and losses == expected


def test_a_model_of_ones_own_gives_plain_logits_and_is_scored(world: World) -> None:
    entry = named(world, training(world, 4, period=3), student("cached", "soft", token=False))
    inputs = Inputs(world.shards, world.val, 3, open_cache(world.label("f16", 3).path), None, None)
    run = Run(entry, inputs, train.make_loader(entry, inputs, 0))
    (batch,) = run.batches(1, 2)
    assert batch.images.shape == (64, 3, 32, 32) and batch.logits is not None and batch.logits.shape == (64, 10)
    logits = torch.zeros(64, 10, requires_grad=True)
    run.loss(logits, batch).backward()
    assert logits.grad is not None and bool(logits.grad.abs().sum() > 0)
    assert sum(len(labels) for _, labels in run.validation()) == world.val.samples


def test_rows_are_found_by_key_and_view(world: World) -> None:
    cache = open_cache(world.label("f16", 3).path)
    rows = KeyedRows.of(cache, world.shards)
    block = world.shards.blocks[-1]
    whole = cache.read(block, 2)
    assert whole.logits is not None
    for place, key in enumerate(world.shards.keys(block)):
        found = rows[key, 2]
        assert found.logits is not None
        assert found.hard == whole.hard[0, place] and np.array_equal(found.logits, whole.logits[0, place])
    with pytest.raises(UsageError, match="there is no sample 'x'"):
        rows["x", 0]
    with pytest.raises(IdentityError, match="shards"):
        KeyedRows.of(cache, Shards.open(world.val.root))


def test_the_door_keeps_its_names_and_imports_no_torch_before_it_is_used() -> None:
    assert str(inspect.signature(pipeline.open_run)) == (
        "(params: str | pathlib.Path = 'params.yaml', *, student: str, work: str | pathlib.Path = 'work', "
        "workers: int | None = None) -> pipeline.student.own_loop.Run"
    )
    assert str(inspect.signature(pipeline.open_rows)) == (
        "(path: str | pathlib.Path, shards: str | pathlib.Path) -> pipeline.student.own_loop.KeyedRows"
    )
    public = {name for name in vars(Run) if not name.startswith("_")}
    assert public == {"steps", "classes", "batches", "validation", "loss", "model"}
    with pytest.raises(AttributeError, match="no attribute 'open_nothing'"):
        pipeline.open_nothing  # noqa: B018 - the look-up is the test
    loaded = "import sys, pipeline; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=600)
    assert found.stdout == "False\n", found.stderr
