"""The student: both heads in both modes, and what is refused."""

import pytest
import torch
from timm.optim import create_optimizer_v2

from pipeline.runtime.errors import UsageError
from pipeline.student.model import Heads, create_student
from tests.support.students import TWIN, VIT, config, make, views
from tests.support.world import MODEL


def test_both_heads_are_seen_in_train_and_in_eval_mode():
    model = make(drop_path=0.0)
    trained, evaluated = model.train()(views()), model.eval()(views())
    assert torch.equal(trained.class_logits, evaluated.class_logits)
    assert torch.equal(trained.distillation_logits, evaluated.distillation_logits)
    assert not torch.allclose(evaluated.class_logits, evaluated.distillation_logits)


def test_the_heads_are_timms_own():
    model = make(drop_path=0.0)
    ours = model.eval()(views())
    assert torch.equal((ours.class_logits + ours.distillation_logits) / 2, model.model(views()))
    model.model.set_distilled_training(True)
    class_logits, distillation_logits = model.model.train()(views())
    assert torch.equal(ours.class_logits, class_logits)
    assert torch.equal(ours.distillation_logits, distillation_logits)


@pytest.mark.parametrize("arch", [TWIN, VIT])
def test_undistilled_students_have_the_class_head_only(arch):
    found = make(arch).eval()(views())
    assert found.class_logits.shape == (4, 10)
    assert found.distillation_logits is None
    assert torch.equal(found.fused(), found.class_logits.softmax(1))


@pytest.mark.parametrize(
    "fields",
    [
        {"drop_path": 0.9},
        *({"drop_path": 0.0, "arch_args": {**MODEL, name: 0.5}} for name in ("proj_drop_rate", "pos_drop_rate")),
    ],
    ids=["drop_path", "proj_drop_rate", "pos_drop_rate"],
)
def test_dropout_and_drop_path_act_in_training_only(fields):
    model = make(**fields)
    model.train()
    assert not torch.equal(model(views()).class_logits, model(views()).class_logits)
    model.eval()
    assert torch.equal(model(views()).class_logits, model(views()).class_logits)


def test_tokens_and_positions_are_not_decayed():
    model = make()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    plain = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in plain}
    assert {"model.cls_token", "model.dist_token", "model.pos_embed", "model.norm.weight"} <= names
    assert "model.head.weight" not in names and "model.patch_embed.proj.weight" not in names


def test_torch_compile_keeps_the_heads():
    model = make(drop_path=0.0).eval()
    found = torch.compile(model, backend="eager", fullgraph=True)(views())
    assert isinstance(found, Heads)
    assert torch.equal(found.distillation_logits, model(views()).distillation_logits)


def test_other_sizes_are_refused():
    with pytest.raises(UsageError, match=r"takes 32x32 px, the recipe draws 64x64; set img_size: 64"):
        create_student(config(), 10, size=64)


@pytest.mark.parametrize(("size", "parameters"), [("tiny", 5_910_800), ("small", 22_436_432), ("base", 87_338_192)])
def test_deits_students_are_created_and_run_one_batch(size, parameters):
    chosen = config(f"deit_{size}_distilled_patch16_224", arch_args={})
    model = create_student(chosen, 1000, size=224).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.inference_mode():
        found = model(views(1, 224))
    assert found.class_logits.shape == found.distillation_logits.shape == (1, 1000)
