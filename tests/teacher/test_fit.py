"""Fitting a teacher: on the labelled images alone, from the weights that it is given, on views as its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.base import weights
from pipeline.planning.params import compose
from pipeline.runtime.config import write_yaml
from pipeline.runtime.machine import device
from pipeline.teacher import fit
from pipeline.teacher.config import NamedTeacher
from pipeline.teacher.model import Teacher
from pipeline.training.config import FitConfig, OptimizerConfig
from pipeline.views.validation import top1, validation
from stages.fit_teacher import main as fit_teacher
from tests.support.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_teacher_is_fitted_on_the_labelled_images_alone(world: World, tmp_path: Path) -> None:
    how = FitConfig(epochs=0.6, batch=32, labelled_per_class=3, optimizer=OptimizerConfig(lr=0.01, ema_decay=None))
    fitted = fit.fit_teacher(world.named_teacher, how, fit.FitInputs(world.shards, world.val, None), tmp_path, 0)
    rows = torch.load(next(tmp_path.glob("step-*/state.pt")), weights_only=True)["rows"]
    assert rows[-1]["step"] == 6 and fitted.top1 is not None and 0 <= fitted.top1 <= 100 and not fitted.model.training


def test_a_fit_starts_from_the_weights_that_it_is_given(world: World, tmp_path: Path) -> None:
    still = OptimizerConfig(lr=1e-12, scale_lr=False, weight_decay=0.0, warmup_epochs=0.0, min_lr=0.0, ema_decay=None)
    how, given = FitConfig(epochs=0.2, batch=32, optimizer=still), world.teacher.model.state_dict()
    starts = [fit.FitInputs(world.shards, world.val, state) for state in (None, given)]
    model = fit.fit_teacher(world.named_teacher, how, starts[1], tmp_path, 0).model
    starts.append(replace(starts[0], initial=model.state_dict()))
    for name, value in model.named_parameters():
        assert torch.allclose(value, given[name], atol=1e-6), name
    assert len({fit.fit_key(world.named_teacher, how, start, []) for start in starts}) == 3


def test_a_fit_sees_views_as_its_teacher_will(world: World, tmp_path: Path) -> None:
    quick = OptimizerConfig(lr=0.01, scale_lr=False, warmup_epochs=0.0, ema_decay=None)
    how = FitConfig(epochs=1.5, batch=32, optimizer=quick)
    config = world.config.model_copy(update={"mean": (0.9, 0.1, 0.4), "std": (0.2, 0.6, 0.3)})
    inputs = fit.FitInputs(world.shards, world.val, None)
    fitted = fit.fit_teacher(NamedTeacher("t", config, world.recipe), how, inputs, tmp_path, 0)
    weights.write_state(tmp_path / "w.safetensors", fitted.model.state_dict())
    teacher = Teacher.load(config, tmp_path / "w.safetensors", 10, world.recipe, world.shards.block_size, device())
    share = top1(teacher.predict, validation(world.val, world.recipe, device(), 0), device())
    assert 100 * share == fitted.top1


def test_ranks_that_do_not_divide_a_fits_lanes_name_its_own_key(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(write_yaml(compose(Path("configs"), ["teacher.fit.lanes=1"])))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    where = ["--params", str(tmp_path / "params.yaml"), "--shards", str(world.root / "shards"), "--work", str(tmp_path)]
    found = CliRunner().invoke(fit_teacher, ["--teacher", "regnety_digits", *where])
    assert found.exit_code == 2
    assert "world size 2 does not divide teachers.regnety_digits.fit.lanes = 1" in found.output
