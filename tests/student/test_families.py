"""Students of eight families of timm: cached = live, resumed to the same bits, exported, loaded by timm."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from pipeline.base.weights import state_hash
from pipeline.cache.reader import open_cache
from pipeline.runtime.errors import RetryError, UsageError
from pipeline.student import train
from pipeline.student.config import StudentConfig
from pipeline.student.export import load_student, recipe_of
from pipeline.student.initial import load_initial
from pipeline.student.inputs import Inputs
from pipeline.student.model import Student, create_student
from pipeline.training.loop import Trained
from tests.support.students import config
from tests.support.world import World, make_world, named, student, training

FAMILIES: dict[str, dict[str, Any]] = {
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32], "stem_width": 8},
    "mobilenetv4_conv_small_035": {},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "test_efficientnet": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "vit_medium_patch16_gap_240": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "vit_small_patch16_dinov3": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "levit_128s": {},
}
SIZE = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), samples=160, size=SIZE)
    world.label("f16", 3)
    return world


def chosen(family: str, **fields: Any) -> StudentConfig:
    return student("cached", "soft", token=False, **({"arch": family, "arch_args": FAMILIES[family]} | fields))


def run(world: World, entry: StudentConfig, folder: Path, stop_at: int | None = None) -> tuple[list[str], Trained]:
    """Six steps: losses as hex floats, and the result."""
    losses: list[str] = []

    def observe(step: int, loss: float) -> None:
        losses.append(loss.hex())
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    cache = open_cache(world.label("f16", 3).path) if entry.cache != "none" else None
    live = world.live("f16") if entry.teacher != "none" else None
    how = training(world, 6, period=3, score_epochs=100)
    inputs = Inputs(world.shards, world.val, 3, cache, live, None)
    return losses, train.train_student(named(world, how, entry), inputs, folder, 0, observe)


def bits(trained: Trained) -> list[str]:
    assert trained.average is not None
    return [state_hash(trained.model.state_dict()), state_hash(trained.average)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_resumes_and_is_loaded_by_timm(world: World, tmp_path: Path, family: str) -> None:
    losses, trained = run(world, chosen(family), tmp_path / "cached")
    assert len(losses) == 6 and len(set(losses)) > 1
    live = run(world, chosen(family, cache="none", teacher="t"), tmp_path / "live")
    assert live[0] == losses and bits(live[1]) == bits(trained)
    with pytest.raises(RetryError):
        run(world, chosen(family), tmp_path / "parts", stop_at=2)
    rest = run(world, chosen(family), tmp_path / "parts")
    assert rest[0] == losses[3:] and bits(rest[1]) == bits(trained)

    out = tmp_path / "out"
    entry = named(world, training(world, 6), chosen(family))
    train.write_student(trained, entry, world.shards.classes, out)
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert isinstance(trained.model, Student)
    with torch.inference_mode():
        expected = trained.model.cpu().eval()(images).class_logits
        assert torch.equal(loaded(images), expected)
        assert torch.equal(load_student(out)(images).class_logits, expected)
    known = timm.get_pretrained_cfg(family)
    assert known is not None and json.dumps(loaded.pretrained_cfg["classifier"]) == json.dumps(known.classifier)
    assert recipe_of(out).size == SIZE


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_weights_of_other_classes_give_all_but_the_classifier(family: str) -> None:
    entry = config(family, arch_args=FAMILIES[family])
    torch.manual_seed(1)
    given = create_student(entry, 7, SIZE).model.state_dict()
    made = create_student(entry, 10, SIZE)
    load_initial(made, given, quiet=True)
    found = made.model.state_dict()
    other = {name for name, value in found.items() if given[name].shape != value.shape}
    for name, value in found.items():
        assert torch.equal(value, torch.zeros_like(value) if name in other else given[name]), name
    assert other


def test_a_model_without_stochastic_depth_or_without_a_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match="vgg11: timm's model has no stochastic depth; set drop_path: 0"):
        create_student(config("vgg11", arch_args={}), 10)
    assert create_student(config("vgg11", drop_path=0.0, arch_args={}), 10).model.num_classes == 10
