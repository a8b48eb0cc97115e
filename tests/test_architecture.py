"""The shape of the project, held by tests: layers, stage shells, and that the import graph is DVC's cache key."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from pipeline.imports import LAYERS, ROOT, code_of, imported, layer

MODULES = sorted(path for path in (ROOT / "pipeline").glob("*.py") if path.stem != "__init__")
SCRIPTS = sorted(path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_module_has_exactly_one_layer() -> None:
    for path in MODULES:
        assert sum(path.stem in names for names in LAYERS) == 1, path.stem
    assert {name for names in LAYERS for name in names} <= {path.stem for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down_and_never_round(path: Path) -> None:
    for other in imported(path):
        assert layer(other) <= layer(path.stem), f"{path.stem} imports {other}, which stands above it"
        assert path.stem not in imported(ROOT / "pipeline" / f"{other}.py"), (
            f"{path.stem} and {other} import each other"
        )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_library_knows_no_click_no_dvc_and_modules_stay_short(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"^\s*(import|from) (click|dvc)\b", text, re.M)
    assert len(text.splitlines()) <= 300, f"{path.stem}: a module is one room"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_global_generator_but_the_students_own(path: Path) -> None:
    allowed = {"loop", "train", "fit", "checkpoint"}  # initial weights, stochastic depth and their state
    text = path.read_text()
    assert not re.search(r"^\s*(import random|from random import)|np\.random|numpy\.random", text, re.M)
    if path.stem not in allowed:
        assert not re.search(r"manual_seed\(|torch\.(rand|randn|randint|randperm)\(", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_stages_are_shells(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def entry(name: str) -> dict:
    return DVC[name].get("do", DVC[name])


def script_of(name: str) -> str:
    cmd = entry(name)["cmd"]  # of a list the last makes the outs
    found = re.match(r"python -m stages\.(\w+)", cmd if isinstance(cmd, str) else cmd[-1])
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", sorted(DVC))
def test_stage_depends_on_exactly_the_modules_that_it_reaches(name: str) -> None:
    found = sorted(dep for dep in entry(name)["deps"] if dep.endswith(".py"))
    assert found == sorted(code_of(script_of(name))), "print the lists with: python -m pipeline.imports"


@pytest.mark.parametrize("name", sorted(DVC))
def test_stage_reads_exactly_the_params_that_it_declares(name: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{script_of(name)}.py").read_text())
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"(config\.)?load(_each)?", ast.unparse(node.func)):
            read.add(re.sub(r"^f?['\"](\w+).*", r"\1", ast.unparse(node.args[1])))
    declared = {str(param).split(".")[0] for param in entry(name)["params"]}
    assert read == declared


def depends(module: str) -> set[str]:
    return {name for name in DVC if f"pipeline/{module}.py" in entry(name)["deps"]}


def test_a_change_in_the_losses_reruns_only_the_students() -> None:
    assert depends("losses") == {"train"}


def test_a_change_in_the_progress_bar_or_the_config_loader_reruns_nothing() -> None:
    assert depends("runtime") == depends("config") == set()


def test_a_change_in_training_never_reruns_the_teacher() -> None:
    for module in ("train", "student", "metrics", "scoring", "loop", "optimize", "report"):
        assert not depends(module) & {"shard", "precompute", "precompute_val"}, module


def test_no_out_is_persisted_or_kept_from_the_cache() -> None:
    for name in DVC:
        for out in entry(name)["outs"]:
            assert isinstance(out, str), f"{name}: persist and cache: false switch DVC's run cache off"
