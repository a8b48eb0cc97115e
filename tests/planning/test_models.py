"""Models of params.yaml, built without their memory: those that cannot do what they are named for are refused."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.base.weights import write_state
from pipeline.planning.check import check
from pipeline.planning.params import compose
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError

CONFIGS = Path("configs")


VIT = {"arch": "deit_tiny_patch16_224", "arch_args": {"depth": 1, "embed_dim": 48, "num_heads": 3, "patch_size": 6}}


def refusal(params: Mapping[str, Any], files: bool = False) -> PipelineError:
    with pytest.raises(PipelineError) as found:
        check(params, {}, files)
    return found.value


def teacher_of(params: dict[str, Any], **fields: Any) -> dict[str, Any]:
    params["teachers"]["regnety_digits"] |= fields
    return params


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"arch": "vit_tiny_patch16_224", "arch_args": {"img_size": 224}}, "takes 224x224 px, the recipe draws 24x24"),
        ({**VIT, "arch_args": VIT["arch_args"] | {"patch_size": 7}}, "patches of 7x7 px do not divide views of 24x24"),
        ({"arch_args": {"group_size": -1}}, "timm can't build it"),
        ({"arch_args": {"global_pool": ""}}, "can't take views of 24 px: .*; correct its arch_args"),
        ({"arch": "resnet18", "arch_args": {"features_only": True}}, "where logits"),
        ({"arch": "vit_small_patch8_224.dino", "weights": "timm"}, "the data has 10 classes, its weights timm have 0"),
        ({"arch": "levit_128s", "arch_args": {"img_size": 224}}, "can't take views of 24 px"),
    ],
)
def test_a_teacher_that_cannot_label_the_views_is_refused(changed: dict[str, Any], sentence: str) -> None:
    params = teacher_of(compose(CONFIGS, ["student=plain"]), **{"arch_args": {}} | changed)
    found = check_with_classes(params)
    assert re.search(rf"teachers\.regnety_digits: .*{sentence}", found), found


def check_with_classes(params: Mapping[str, Any]) -> str:
    found = refusal(params, files=True)
    assert found.exit_code == 2
    return str(found)


def test_a_vit_teacher_labels_one_size_only(tmp_path: Path) -> None:
    params = teacher_of(compose(CONFIGS, ["student=soft"]), **VIT)
    check(params, {}, files=False)  # at its own recipe's size it follows the recipe
    params["recipes"]["large"] = params["recipes"]["digits"] | {"size": 48}
    params["caches"]["digits"]["recipe"] = "large"
    params["students"]["soft"]["recipe"] = "large"
    sentence = r"caches\.digits of recipe large draws 48 px, and its weights for 24 px do not fit: pos_embed"
    assert re.search(sentence, str(refusal(params)))
    teacher_of(params, arch="test_byobnet", arch_args={})  # a convnet takes any size
    check(params, {}, files=False)


def test_weights_that_are_damaged_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    params = teacher_of(
        compose(CONFIGS, ["student=plain"]), arch="test_byobnet", arch_args={}, weights=str(tmp_path / "t.safetensors")
    )
    state = timm.create_model("test_byobnet", num_classes=10).state_dict()
    write_state(tmp_path / "t.safetensors", state)
    check(params, {})
    state["stem.conv.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, tmp_path / "t.safetensors")
    found = refusal(params, files=True)
    assert isinstance(found, IntegrityError)
    assert re.search(
        r"teachers\.regnety_digits: .*t\.safetensors: damaged weights: nan or inf in stem\.conv\.weight", str(found)
    )
    params["students"]["plain"]["initial"] = str(tmp_path / "t.safetensors")
    found = refusal(params, files=True)
    assert isinstance(found, UsageError) and "students.plain: initial: " in str(found) and "nan or inf" in str(found)


def test_a_teacher_that_is_a_student_of_another_shape_is_refused() -> None:
    params = compose(CONFIGS, ["student=plain,hard_token"])
    shape = dict(params["students"]["plain"]["arch_args"])
    teacher_of(params, student="plain", arch="deit_tiny_patch16_224", arch_args=shape)
    check(params, {}, files=False)
    teacher_of(params, arch_args=shape | {"depth": 2})
    assert re.search(r"teachers\.regnety_digits: student plain's weights do not fit: blocks\.2", str(refusal(params)))
    teacher_of(params, arch_args=shape)
    params["students"]["plain"]["parent"] = "hard_token"
    assert "students.plain: initial: expected weights without a distillation token" in str(refusal(params))


def test_the_models_size_follows_the_recipe_unless_it_is_set() -> None:
    small = ["student=soft", "recipe.size=48"]
    check(compose(CONFIGS, small), {}, files=False)
    params = compose(CONFIGS, [*small, "student.arch_args.img_size=24"])
    assert "students.soft: deit_tiny_patch16_224: takes 24x24 px, the recipe draws 48x48" in str(refusal(params))
