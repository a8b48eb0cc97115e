"""Weights that a student starts from: whole, resampled, without heads, or refused."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.base import weights
from pipeline.runtime.errors import UsageError
from pipeline.student.initial import initial_state, load_initial, read_student_initial
from tests.support.students import DISTILLED, TWIN, config, make, views
from tests.support.world import MODEL


def test_initial_weights_of_the_same_shape_are_taken_whole(tmp_path):
    source, fresh = make(seed=1), make(seed=2)
    torch.save({"model": source.model.state_dict()}, tmp_path / "w.pth")
    load_initial(fresh, initial_state(config(initial=str(tmp_path / "w.pth")), tmp_path))
    assert weights.state_hash(fresh.state_dict()) == weights.state_hash(source.state_dict())


@pytest.mark.parametrize(("arch", "tokens"), [(DISTILLED, 2), (TWIN, 1)])
@pytest.mark.parametrize("size", [64, 24])
def test_positions_are_resampled_as_deit_does(arch, tokens, size, capsys):
    source, fresh = make(arch, seed=1), make(arch, seed=2, arch_args={**MODEL, "img_size": size})
    load_initial(fresh, source.model.state_dict())
    # DeiT main.py:283-308, written down again.
    before = source.model.pos_embed.detach()
    grid = before[:, tokens:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(size // 8, size // 8), mode="bicubic", align_corners=False)
    expected = torch.cat([before[:, :tokens], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    assert torch.equal(fresh.model.pos_embed, expected)
    assert torch.equal(fresh.model.head.weight, source.model.head.weight)
    assert fresh(views(size=size)).class_logits.shape == (4, 10)
    assert f"from 4x4 to {size // 8}x{size // 8}" in capsys.readouterr().out


def test_heads_for_other_classes_start_at_zero_and_that_is_said(capsys):
    source, fresh = make(classes=7, seed=1), make(seed=2)
    load_initial(fresh, source.model.state_dict())
    after = fresh.model.state_dict()
    for name, value in after.items():
        expected = torch.zeros_like(value) if name.startswith("head") else source.model.state_dict()[name]
        assert torch.equal(value, expected), name
    assert "weights of 7 classes, data of 10" in capsys.readouterr().out


@pytest.mark.parametrize("arch", [DISTILLED, TWIN])
@pytest.mark.parametrize("projection", [False, True])
def test_a_self_supervised_backbone_starts_a_student_whose_heads_are_zero(arch, projection, tmp_path, capsys):
    """A backbone of a file without heads, or with a projection head under their name."""
    source, fresh = make(arch, seed=1), make(arch, seed=2)
    state = {name: value for name, value in source.model.state_dict().items() if not name.startswith("head")}
    if projection:
        state["head.mlp.0.weight"] = torch.ones(3, 48)
    weights.write_state(tmp_path / "backbone.safetensors", state)
    load_initial(fresh, read_student_initial(config(arch, initial=str(tmp_path / "backbone.safetensors"))))
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, torch.zeros_like(value) if name.startswith("head") else state[name]), name
    assert "initial: weights without head.weight, head.bias" in capsys.readouterr().out
    del state["blocks.0.norm1.weight"]
    with pytest.raises(UsageError, match=r"missing blocks\.0\.norm1\.weight"):
        load_initial(fresh, state)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ((TWIN, MODEL), (DISTILLED, MODEL), "expected weights with a distillation token"),
        ((DISTILLED, MODEL), (TWIN, MODEL), "expected weights without a distillation token"),
        ((TWIN, {**MODEL, "depth": 3}), (TWIN, MODEL), r"not in the model blocks\.2"),
        ((TWIN, {**MODEL, "patch_size": 4}), (TWIN, MODEL), r"patch_embed\.proj\.weight: expected"),
        ((TWIN, {**MODEL, "embed_dim": 96, "img_size": 64}), (TWIN, MODEL), "square grid of width 48"),
    ],
)
def test_initial_weights_of_another_architecture_are_refused(source, target, message):
    state = make(source[0], arch_args=source[1]).model.state_dict()
    fresh = make(target[0], arch_args=target[1], seed=2)
    before = weights.state_hash(fresh.state_dict())
    with pytest.raises(UsageError, match=message):
        load_initial(fresh, state)
    assert weights.state_hash(fresh.state_dict()) == before
