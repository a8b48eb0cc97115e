"""What params.yaml and local files show is refused by ``configure --check``, all at once, and before any work."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner

from pipeline.base.weights import write_state
from pipeline.planning.check import check
from pipeline.planning.params import compose, write_params
from pipeline.planning.pieces import examine_pieces
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from stages.configure import main

CONFIGS = Path("configs")
VIT = {"arch": "deit_tiny_patch16_224", "arch_args": {"depth": 1, "embed_dim": 48, "num_heads": 3, "patch_size": 6}}


@pytest.fixture(autouse=True)
def own_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))  # remembers no check of another test


def refusal(params: Mapping[str, Any], files: bool = False) -> PipelineError:
    with pytest.raises(PipelineError) as found:
        check(params, {}, files)
    return found.value


def teacher_of(params: dict[str, Any], **fields: Any) -> dict[str, Any]:
    params["teachers"]["regnety_digits"] |= fields
    return params


def test_everything_is_refused_at_once_with_key_and_reason(tmp_path: Path) -> None:
    """Faults of ten kinds in one file: of sections, keys, names, files, and of models."""
    params = compose(CONFIGS, ["teacher=regnety_digits"])
    params["data"]["shard_size"] = 10**400
    params["recipes"]["other"] = params["recipes"]["digits"] | {"size": 32}
    params["caches"][".."] = dict(params["caches"]["digits"])
    params["trainings"]["digits"]["epochz"] = 3
    params["trainings"]["long"] = params["trainings"]["digits"] | {"period": 31}
    del params["trainings"]["long"]["epochz"]
    params["students"]["plain"] |= {"training": "nowhere"}
    params["students"]["soft"] |= {"training": "long", "cache": "digits"}
    params["students"]["hard"] |= {"arch_args": {"depth": 3, "patch_size": 7}}
    params["students"]["hard_token"] |= {"initial": str(tmp_path / "none.pth")}
    teacher_of(params, arch_args={"depth": 4})
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2
    for sentence in (
        r"data\.shard_size: Input should be less than or equal to 1000000, found 10{50,}",
        r"caches\.\.\.: expected a name",
        r"trainings\.digits\.epochz: unknown key",
        r"students\.plain\.training: there is no 'nowhere'",
        r"students\.soft: .*period K = 31",
        r"students\.hard_token\.initial: no such file",
        r"teachers\.regnety_digits: regnety_002: timm can't build it with .*'depth': 4.*AssertionError in \w+\.py: assert ",
        r"students\.hard: .*patches of 7x7 px do not divide views of 24x24 px",
    ):
        assert re.search(sentence, result.output), (sentence, result.output)
    assert "Traceback" not in result.output


def numbers(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all numbers in nested mappings."""
    if isinstance(value, dict):
        return [found for key, entry in value.items() for found in numbers(entry, (*path, key))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**63], ids=["huge", "negative", "64 bits"])
def test_no_number_of_params_may_be_too_large_to_count_with(number: int) -> None:
    params = compose(CONFIGS, [])
    whole = [path for path in numbers(params) if path[0] != "students" or path[1] == "soft"]
    assert len(whole) > 50
    for path in whole:
        broken = copy.deepcopy(params)
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = number
        _, problems = examine_pieces(broken)
        if number != 2**63:  # which a float may be
            assert any(path[-1] in problem for problem in problems), path
        assert all(len(problem) < 1000 for problem in problems)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "none", "-a", "a" * 300, "ä", "a b", "a\n"])
def test_a_name_that_is_no_directorys_is_refused_in_every_section(name: str) -> None:
    params = compose(CONFIGS, [])
    for section in ("recipes", "teachers", "caches", "trainings", "students"):
        first = next(iter(params[section].values()))
        _, problems = examine_pieces(params | {section: params[section] | {name: first}})
        assert len([p for p in problems if p.startswith(f"{section}.")]) == 1, section


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
    write_state(tmp_path / "t.safetensors", state)
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


def test_too_large_a_batch_for_the_known_images_is_refused() -> None:
    with pytest.raises(UsageError) as found:
        compose(CONFIGS, ["training.batch=999424", "teacher.fit.batch=999424"])
    assert re.search(r"trainings\.digits: 33 epochs of 1437 images .* make no step of batch 999424", str(found.value))
    assert re.search(r"teachers\.regnety_digits\.fit: 26 epochs of 1437 images", str(found.value))


def test_what_only_this_machine_lacks_is_a_warning_and_a_refusal_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(compose(CONFIGS, ["student=plain", "training.compile=true"]), tmp_path / "params.yaml", [])
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 0, result.output
    assert re.search(r"warning: compile: true in trainings\.digits, and here is no C\+\+ compiler", result.output)
