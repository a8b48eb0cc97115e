"""Training: it learns, resumes to the same bits, stops when told to, and refuses what does not fit."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from pipeline.base import weights
from pipeline.cache.reader import open_cache
from pipeline.runtime.errors import IntegrityError, Interrupted, RetryError, UsageError
from pipeline.runtime.libraries import versions
from pipeline.runtime.machine import device
from pipeline.student import train
from pipeline.student.inputs import Inputs
from pipeline.training import checkpoint, loop
from pipeline.training.batches import Batch, Loader
from tests.support.world import World, make_world, named, student, training

HERE = versions(device().type)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.label("none", 3)
    return world


def inputs(world: World) -> train.Inputs:
    return Inputs(world.shards, world.val, 3, open_cache(world.label("none", 3).path), None, None)


def run(world: World, folder: Path, stop_at: int | None = None, **fields: object) -> tuple[list[str], str]:
    """Losses as hex floats and the hash of model and average; ``stop_at`` sends this process a SIGTERM at that step."""
    seen: list[str] = []

    def observe(step: int, loss: float) -> None:
        seen.append(loss.hex())
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    config = training(world, 12, **({"checkpoint_steps": 5} | fields))
    trained = train.train_student(named(world, config, student("cached", "hard")), inputs(world), folder, 0, observe)
    assert trained.average is not None
    return seen, weights.state_hash(trained.model.state_dict()) + weights.state_hash(trained.average)


def test_a_stopped_run_goes_on_to_the_same_bits(world: World, tmp_path: Path) -> None:
    whole = run(world, tmp_path / "whole")
    with pytest.raises(RetryError, match=r"stopped by SIGTERM at step 8 of 12, saved"):
        run(world, tmp_path / "parts", stop_at=7)
    rest = run(world, tmp_path / "parts")
    assert rest[0] == whole[0][8:] and rest[1] == whole[1]
    assert run(world, tmp_path / "parts") == ([], whole[1])  # finished: hands out its result, trains nothing


def test_a_finished_run_is_handed_out_only_by_the_libraries_that_made_it(world: World, tmp_path: Path, capsys) -> None:
    """A run of the same key that another timm finished stays as it is, and one beside it is made; that one is then handed
    out."""
    first = run(world, tmp_path / "run")
    written = tmp_path / "run" / "libraries.json"
    (entry,) = json.loads(written.read_text())
    assert entry == {"step": 0, "libraries": HERE}
    assert HERE | {"timm": timm.__version__, "numpy": np.__version__, "device": device().type} == HERE
    for name, other in (("timm", "1.0.20"), ("torch", "2.14.0"), ("numpy", "2.0.0"), ("device", "mps")):
        entry["libraries"] = HERE | {name: other}
        written.write_text(json.dumps([entry]))
        before = contents(tmp_path / "run")
        capsys.readouterr()
        losses, weights_hash = run(world, tmp_path / "run")
        assert losses == (first[0] if name == "timm" else []) and weights_hash == first[1]
        assert f"made elsewhere ({name} {other}, here" in capsys.readouterr().out
        assert contents(tmp_path / "run") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2"]
    written.unlink()
    assert run(world, tmp_path / "run") == ([], first[1])
    assert "it does not say with which libraries" in capsys.readouterr().out


def test_the_speed_of_a_student_is_of_the_run_that_made_it(world: World, tmp_path: Path) -> None:
    """Another machine's finished run of the same key lies in its place, with speeds of its own."""
    config, chosen = training(world, 3), student("cached", "hard")
    train.train_student(named(world, config, chosen), inputs(world), tmp_path / "run", 0)
    (tmp_path / "run" / "libraries.json").write_text(json.dumps([{"step": 0, "libraries": HERE | {"torch": "2.14.0"}}]))
    (tmp_path / "run" / "speed.csv").write_text("epoch,step,images_per_s,waiting\n0.5,3,99999.0,0.0\n")
    trained = train.train_student(named(world, config, chosen), inputs(world), tmp_path / "run", 0)
    made = list(csv.DictReader((tmp_path / "run-2" / "speed.csv").read_text().splitlines()))
    assert [row["images_per_s"] for row in trained.speed] == [float(row["images_per_s"]) for row in made]
    assert trained.speed and all(row["images_per_s"] < 99999 for row in trained.speed)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_unfinished_run_goes_on_with_other_libraries_and_says_and_records_it(
    world: World, tmp_path: Path, capsys
) -> None:
    with pytest.raises(RetryError):
        run(world, tmp_path / "run", stop_at=7)
    written = tmp_path / "run" / "libraries.json"
    other = [{"step": 0, "libraries": HERE | {"numpy": "2.0.0"}}]
    written.write_text(json.dumps(other))
    capsys.readouterr()
    assert len(run(world, tmp_path / "run")[0]) == 4
    assert "goes on from step 8 with other libraries (numpy 2.0.0, here" in capsys.readouterr().out
    assert json.loads(written.read_text()) == [*other, {"step": 8, "libraries": HERE}]
    assert run(world, tmp_path / "run")[0] == []


def test_a_run_without_memory_says_what_decides_it_and_goes_on_from_its_last_checkpoint(
    world: World, tmp_path: Path
) -> None:
    whole = run(world, tmp_path / "whole")

    def observe(step: int, loss: float) -> None:
        if step == 7:
            torch.empty(1 << 60)

    config = training(world, 12, checkpoint_steps=5)
    sizes = "batch = 64, accumulate = 1, lanes = 2, window = 2, block = 32"
    with pytest.raises(RetryError, match=f"^out of memory .*; .* of memory are free; nothing saved is lost: .*{sizes}"):
        train.train_student(
            named(world, config, student("cached", "hard")), inputs(world), tmp_path / "short", 0, observe
        )
    assert run(world, tmp_path / "short") == (whole[0][5:], whole[1])


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_change(world: World, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 1e38, "warmup_epochs": 0.0, "weight_decay": 0.0}
    with pytest.raises(IntegrityError, match=r"nan or inf somewhere within steps \d+\.\.\d+.*lower optimizer.lr"):
        run(world, tmp_path, optimizer=optimizer, checkpoint_steps=2)
    for path in tmp_path.glob("step-*/state.pt"):
        state = torch.load(path, weights_only=True)
        assert all(bool(torch.isfinite(value).all()) for value in state["model"].values()), "nan weights were saved"


def test_weights_that_one_bad_gradient_made_nan_are_never_saved(world: World, tmp_path: Path) -> None:
    config = training(world, 12, checkpoint_steps=5)
    schedule = train.make_schedule(config, world.shards, 3)
    loader = Loader(schedule, range(1), world.shards, world.recipe, device(), 0)
    calls = iter(range(12))

    def compute(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        loss = model(batch.images.mean((2, 3))).square().mean()
        bad = next(calls) == 9  # the last step before a checkpoint: its loss is finite, its gradient is not
        return {"loss": loss + (0.0 * loss).sqrt() if bad else loss}

    with pytest.raises(IntegrityError, match=r"weights became nan or inf by step 9; lower optimizer.lr"):
        loop.run("s", torch.nn.Linear(3, 2).to(device()), loop.Task(compute), config, loader, tmp_path)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000005"]


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "weights of nan": lambda state: state["model"]["weight"].fill_(float("nan")),
    "average of nan": lambda state: state["average"]["bias"].fill_(float("nan")),
    "a key missing": lambda state: state["model"].pop("bias"),
    "another shape": lambda state: state["model"].update(weight=torch.ones(2, 4)),
    "moments of another shape": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(7)),
    "no moments": lambda state: state["optimizer"]["state"][1].clear(),
    "no groups": lambda state: state["optimizer"].update(param_groups=[]),
    "rows of text": lambda state: state.update(rows=["epoch"]),
    "no rows": lambda state: state.update(rows=[], sums={}),
    "state of a generator": lambda state: state["chance"][0].update(torch=torch.zeros(3, dtype=torch.uint8)),
    "no generators": lambda state: state.update(chance=None),
}


def test_a_whole_checkpoint_that_is_not_of_this_run_gives_way_to_the_one_before(world: World, tmp_path: Path) -> None:
    config = training(world, 6, checkpoint_steps=4)
    loader = Loader(train.make_schedule(config, world.shards, 3), range(1), world.shards, world.recipe, device(), 0)

    def compute(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": model(batch.images.mean((2, 3))).square().mean()}

    def run() -> str:
        torch.manual_seed(0)
        trained = loop.run("s", torch.nn.Linear(3, 2).to(device()), loop.Task(compute), config, loader, tmp_path)
        assert trained.average is not None
        return weights.state_hash(trained.model.state_dict()) + weights.state_hash(trained.average)

    whole = run()
    for kind, damage in DAMAGES.items():
        step, state = checkpoint.latest(tmp_path) or (0, {})
        assert step == 6
        damage(state)
        checkpoint.save(tmp_path, step, state)
        assert run() == whole, kind


@pytest.mark.parametrize("at", [1, 4], ids=["in the middle", "at the end"])
def test_a_stop_during_a_score_loses_no_step_and_the_score_is_made_up_for(
    world: World, tmp_path: Path, at: int
) -> None:
    config = training(world, 21, batch=32)
    schedule = train.make_schedule(config, world.shards, 3)
    loader = Loader(schedule, range(1), world.shards, world.recipe, device(), 0)
    asked: list[int] = []

    def compute(model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": model(batch.images.mean((2, 3))).square().mean()}

    def run(directory: Path, stop_at: int | None = None) -> list[dict[str, float]]:
        def score(model: torch.nn.Module, _: torch.nn.Module | None) -> dict[str, float]:
            asked.append(len(asked))
            if len(asked) - 1 == stop_at:
                raise Interrupted("told to stop")
            return {"val_top1": float(model(torch.ones(1, 3, device=device())).sum().detach())}

        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2).to(device())
        return loop.run("s", model, loop.Task(compute, score), config, loader, directory).rows

    whole = run(tmp_path / "whole")
    asked.clear()
    with pytest.raises(RetryError, match="saved; run the same command to go on"):
        run(tmp_path / "stopped", stop_at=at)
    assert run(tmp_path / "stopped") == whole and len(whole) == 5


def test_a_period_beyond_the_cache_is_refused_before_any_step(world: World, tmp_path: Path) -> None:
    config = training(world, 12, period=6)
    with pytest.raises(UsageError, match="K = 6 views, and its cache holds V = 3"):
        train.train_student(named(world, config, student("cached", "hard")), inputs(world), tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_a_second_job_on_the_same_run_is_sent_away(world: World, tmp_path: Path) -> None:
    with loop.exclusive(tmp_path), pytest.raises(RetryError, match="another job trains this very run"):
        run(world, tmp_path)
