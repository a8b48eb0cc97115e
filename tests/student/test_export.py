"""The student: both heads in both modes, starting weights, configs that are refused, and the export that timm loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

from pipeline.base import weights
from pipeline.base.timm_models import require_known
from pipeline.runtime.config import validate
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.student.config import StudentConfig
from pipeline.student.export import export as export_student
from pipeline.student.export import load_student
from pipeline.student.initial import initial_state, load_initial, read_student_initial
from pipeline.student.losses import Distillation, distillation_loss
from pipeline.student.model import Heads, Student, create_student
from pipeline.views.recipe import Recipe

torch.set_num_threads(1)  # the models are tiny
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
DISTILLED, TWIN, VIT = "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "vit_tiny_patch16_224"
NAMES = [f"class {i}" for i in range(10)]


def config(arch: str = DISTILLED, **fields: Any) -> StudentConfig:
    token = "_distilled_" in arch
    default = {
        "arch": arch,
        "arch_args": ARGS,
        "distillation": "hard" if token else "none",
        "token": token,
        "recipe": "r",
        "training": "t",
        "cache": "c" if token else "none",
        "teacher": "none",
        "parent": "none",
    }
    return validate(StudentConfig, {**default, **fields}, "students.a")


def make(arch: str = DISTILLED, classes: int = 10, seed: int = 0, **fields: Any) -> Student:
    torch.manual_seed(seed)
    made = create_student(config(arch, **fields), classes)
    for parameter in made.parameters():  # timm's heads start at zero: every answer would be equal
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def views(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def recipe(**fields: Any) -> Recipe:
    return validate(Recipe, {"seed": 0, "size": 32, **fields}, "views")


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


def test_every_parameter_learns_from_the_distillation_loss():
    model = make(drop_path=0.0).train()
    target = F.one_hot(torch.tensor([0, 1, 2, 3]), 10).float()
    loss = distillation_loss(model(views()), target, torch.tensor([4, 5, 6, 7]), None, Distillation("hard"))
    loss.total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_two_class_tokens_without_a_teacher_learn_the_label_half_each():
    model = make(drop_path=0.0, distillation="none", cache="none").train()
    heads, target = model(views()), F.one_hot(torch.tensor([0, 1, 2, 3]), 10).float()
    loss = distillation_loss(heads, target, None, None, Distillation("none"))
    each = [F.cross_entropy(logits, target) for logits in (heads.class_logits, heads.distillation_logits)]
    assert torch.allclose(loss.total, (each[0] + each[1]) / 2) and each[0] != each[1]
    loss.total.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"drop_path": 0.9},
        *({"drop_path": 0.0, "arch_args": {**ARGS, name: 0.5}} for name in ("proj_drop_rate", "pos_drop_rate")),
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


@pytest.mark.parametrize(
    ("arch", "fields", "message"),
    [
        (DISTILLED, {"distillation": "none"}, "another one neither"),
        (DISTILLED, {"cache": "none"}, "a distilled student names a cache or a teacher"),
        (DISTILLED, {"token": False}, "has a distillation token, found token: False"),
        (TWIN, {"token": True, "distillation": "hard", "teacher": "t"}, "has no distillation token"),
        (TWIN, {"alpha": 1.5}, r"students\.a\.alpha"),
        (TWIN, {"tau": 0.0}, r"students\.a\.tau"),
        (TWIN, {"tau": "1e-3"}, r"tau: .*found '1e-3'"),
        (TWIN, {"arch_args": {"img_size": [32, 32]}}, r"students\.a\.arch_args\.img_size"),
        (TWIN, {"initial": "timm", "parent": "p"}, "both give weights"),
        (TWIN, {"codec": "f16"}, "is for a live teacher without a cache"),
    ],
)
def test_bad_configs_are_refused(arch, fields, message):
    with pytest.raises(UsageError, match=message):
        config(arch, **fields)


@pytest.mark.parametrize(
    ("arch", "args", "weights", "message"),
    [
        ("deit_tinny_patch16_224", {}, None, "did you mean deit_tiny_patch16_224"),
        (TWIN, {"drop_path_rate": 0.1}, None, "drop_path_rate is set by the pipeline"),
        (TWIN, {}, "timm", "need a name with its tag"),
    ],
)
def test_models_that_timm_does_not_know_are_refused(arch, args, weights, message):
    with pytest.raises(UsageError, match=message):
        require_known(arch, args, weights)


def test_where_targets_come_from_follows_from_the_names():
    names = {"cached": ("c", "none"), "live": ("none", "t"), "auto": ("c", "t")}
    for supervision, (cache, teacher) in names.items():
        assert config(cache=cache, teacher=teacher).supervision == supervision
    assert config(TWIN).supervision == "none"


def test_hard_without_the_token_is_a_config():
    assert config(TWIN, distillation="hard", cache="c", teacher="t").token is False


def test_other_sizes_and_models_without_a_class_token_are_refused():
    with pytest.raises(UsageError, match=r"takes 32x32 px, the recipe draws 64x64; set img_size: 64"):
        create_student(config(), 10, size=64)
    with pytest.raises(UsageError, match="class token"):
        create_student(config("test_byobnet", arch_args={}), 10)


@pytest.mark.parametrize("arch", [DISTILLED, TWIN, VIT])
def test_the_export_is_loaded_by_timm_with_equal_outputs(tmp_path, arch):
    model = make(arch).eval()
    chosen = recipe(mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4), crop_fraction=0.9, interpolation="bilinear")
    export_student(model, config(arch), NAMES, chosen, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    ours = model(views())
    expected = ours.class_logits
    if ours.distillation_logits is not None:
        expected = (expected + ours.distillation_logits) / 2
    assert torch.equal(loaded(views()), expected)
    data = timm.data.resolve_model_data_config(loaded)
    assert data["input_size"] == (3, 32, 32)
    assert (tuple(data["mean"]), tuple(data["std"])) == ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    assert (data["crop_pct"], data["interpolation"], data["crop_mode"]) == (0.9, "bilinear", "center")
    assert list(loaded.pretrained_cfg["label_names"]) == NAMES
    ours_again = load_student(tmp_path)(views())
    assert torch.equal(ours_again.class_logits, ours.class_logits)


def test_an_export_can_be_given_other_classes_by_timm(tmp_path):
    export_student(make().eval(), config(), NAMES, recipe(), tmp_path)
    fresh = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert fresh(views()).shape == (4, 3)


def test_two_exports_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        export_student(make(), config(), NAMES, recipe(), tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_damaged_export_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_student(tmp_path)
    export_student(make(), config(), NAMES, recipe(), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 4
    file.write_bytes(flipped)
    with pytest.raises(IntegrityError, match="expected weights"):
        load_student(tmp_path)
    file.write_bytes(whole[:-100])
    with pytest.raises(IntegrityError, match="damaged weights"):
        load_student(tmp_path)


def test_class_names_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(UsageError, match="10 classes, found 3 class names"):
        export_student(make(), config(), NAMES[:3], recipe(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_initial_weights_of_the_same_shape_are_taken_whole(tmp_path):
    source, fresh = make(seed=1), make(seed=2)
    torch.save({"model": source.model.state_dict()}, tmp_path / "w.pth")
    load_initial(fresh, initial_state(config(initial=str(tmp_path / "w.pth")), tmp_path))
    assert weights.state_hash(fresh.state_dict()) == weights.state_hash(source.state_dict())


@pytest.mark.parametrize(("arch", "tokens"), [(DISTILLED, 2), (TWIN, 1)])
@pytest.mark.parametrize("size", [64, 24])
def test_positions_are_resampled_as_deit_does(arch, tokens, size, capsys):
    source, fresh = make(arch, seed=1), make(arch, seed=2, arch_args={**ARGS, "img_size": size})
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


def test_heads_for_other_classes_start_untrained_and_that_is_said(capsys):
    source, fresh = make(classes=7, seed=1), make(seed=2)
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    load_initial(fresh, source.model.state_dict())
    after = fresh.model.state_dict()
    for name, value in after.items():
        expected = before[name] if name.startswith("head") else source.model.state_dict()[name]
        assert torch.equal(value, expected), name
    assert "weights of 7 classes, data of 10" in capsys.readouterr().out


@pytest.mark.parametrize("arch", [DISTILLED, TWIN])
@pytest.mark.parametrize("projection", [False, True])
def test_a_self_supervised_backbone_starts_a_student_whose_heads_are_untrained(arch, projection, tmp_path, capsys):
    """A backbone of a file without heads, or with a projection head under their name."""
    source, fresh = make(arch, seed=1), make(arch, seed=2)
    state = {name: value for name, value in source.model.state_dict().items() if not name.startswith("head")}
    if projection:
        state["head.mlp.0.weight"] = torch.ones(3, 48)
    weights.write_state(tmp_path / "backbone.safetensors", state)
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    load_initial(fresh, read_student_initial(config(arch, initial=str(tmp_path / "backbone.safetensors"))))
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("head") else state[name]), name
    assert "initial: weights without head.weight, head.bias" in capsys.readouterr().out
    del state["blocks.0.norm1.weight"]
    with pytest.raises(UsageError, match=r"missing blocks\.0\.norm1\.weight"):
        load_initial(fresh, state)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ((TWIN, ARGS), (DISTILLED, ARGS), "expected weights with a distillation token"),
        ((DISTILLED, ARGS), (TWIN, ARGS), "expected weights without a distillation token"),
        ((TWIN, {**ARGS, "depth": 3}), (TWIN, ARGS), r"not in the model blocks\.2"),
        ((TWIN, {**ARGS, "patch_size": 4}), (TWIN, ARGS), r"patch_embed\.proj\.weight: expected"),
        ((TWIN, {**ARGS, "embed_dim": 96, "img_size": 64}), (TWIN, ARGS), "square grid of width 48"),
    ],
)
def test_initial_weights_of_another_architecture_are_refused(source, target, message):
    state = make(source[0], arch_args=source[1]).model.state_dict()
    fresh = make(target[0], arch_args=target[1], seed=2)
    before = weights.state_hash(fresh.state_dict())
    with pytest.raises(UsageError, match=message):
        load_initial(fresh, state)
    assert weights.state_hash(fresh.state_dict()) == before


@pytest.mark.parametrize(("size", "parameters"), [("tiny", 5_910_800), ("small", 22_436_432), ("base", 87_338_192)])
def test_deits_students_are_created_and_run_one_batch(size, parameters):
    chosen = config(f"deit_{size}_distilled_patch16_224", arch_args={})
    model = create_student(chosen, 1000, size=224).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.inference_mode():
        found = model(views(1, 224))
    assert found.class_logits.shape == found.distillation_logits.shape == (1, 1000)


def test_the_description_is_plain_json_that_names_the_weights(tmp_path):
    model = make()
    export_student(model, config(), NAMES, recipe(), tmp_path)
    described = json.loads(Path(tmp_path / "config.json").read_text())
    assert described["weights_hash"] == weights.state_hash(weights.read_state(tmp_path / "model.safetensors"))
    assert described["model_args"] == ARGS
