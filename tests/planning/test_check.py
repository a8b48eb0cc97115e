"""What params.yaml and local files show is refused by ``configure --check``, all at once, and before any work."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from click.testing import CliRunner

from pipeline.planning.check import check, refused_by_dvc
from pipeline.planning.params import compose, write_params
from pipeline.runtime.errors import PipelineError, UsageError
from stages.configure import main

CONFIGS = Path("configs")


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


def test_an_edited_params_file_is_checked_whole_before_any_work(tmp_path: Path) -> None:
    params = compose(CONFIGS, [])
    params["trainings"]["digits"]["epochz"] = 3
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "trainings.digits.epochz: unknown key" in result.output
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text() + "stduents: {}\n")
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "stduents" in result.output
    result = CliRunner().invoke(main, ["--params", str(tmp_path / "none" / "params.yaml")])
    assert result.exit_code == 2 and "No such file or directory; correct the path" in result.output
    params["trainings"]["digits"].pop("epochz")
    params["teachers"]["regnety_digits"]["weights"] = str(tmp_path / "none.pth")
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "teachers.regnety_digits.weights: no such file" in result.output
    model = timm.create_model("test_byobnet", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    params["teachers"]["regnety_digits"] |= {
        "arch": "test_byobnet",
        "arch_args": {},
        "weights": str(tmp_path / "seven.pth"),
    }
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "expected (10, " in result.output and "number of classes" in result.output


def test_weights_replaced_in_place_change_what_the_stages_depend_on(tmp_path: Path) -> None:
    params = compose(CONFIGS, [])
    for name, classes in (("a.pth", 10), ("b.pth", 10)):
        torch.manual_seed(len(name) + ord(name[0]))
        torch.save(timm.create_model("test_byobnet", num_classes=classes).state_dict(), tmp_path / name)
    params["teachers"]["regnety_digits"] |= {
        "arch": "test_byobnet",
        "arch_args": {},
        "weights": str(tmp_path / "a.pth"),
    }
    write_params(params, tmp_path / "params.yaml", [])
    arguments = ["--check", "--params", str(tmp_path / "params.yaml"), "--weights", str(tmp_path / "work" / "weights")]
    seen = []
    for source in ("a.pth", "a.pth", "b.pth"):
        (tmp_path / source).replace(tmp_path / "a.pth")
        assert CliRunner().invoke(main, arguments).exit_code == 0
        seen.append((tmp_path / "work" / "weights" / "teachers.regnety_digits.weights").read_text())
    assert seen[0] == seen[1] != seen[2]
    graph = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    assert "work/weights/teachers.${key}.weights" in graph["teacher"]["do"]["deps"]
    assert "work/weights/students.${key}.initial" in graph["train"]["do"]["deps"]


def test_a_hub_teacher_of_other_classes_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    for name in ("ant", "bee", "cat"):
        (tmp_path / "train" / name).mkdir(parents=True)
    params = compose(CONFIGS, ["data=folder", "teacher=regnety_160"])
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "the data has 3 classes, its weights timm have 1000" in result.output


@pytest.mark.parametrize("students", [None, [], {}, {"a/b": {}}, {"a.b": {}}])
def test_students_that_can_name_no_stage_are_refused(students: object) -> None:
    with pytest.raises(UsageError, match=r"^students"):
        check(compose(CONFIGS, []) | {"students": students}, {})


def test_a_work_folder_that_dvc_will_refuse_is_said_with_the_command_that_helps(tmp_path: Path) -> None:
    project, disk = tmp_path / "project", tmp_path / "disk"
    for folder in (project / ".git", project / ".dvc", project / "here", disk):
        folder.mkdir(parents=True)
    assert refused_by_dvc(project) == ""
    (project / "work").symlink_to(project / "here")
    assert refused_by_dvc(project) == ""
    (project / "work").unlink()
    (project / "work").symlink_to(disk)
    assert "dvc config --local core.no_scm true" in refused_by_dvc(project)
    (project / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    assert refused_by_dvc(project) == ""
