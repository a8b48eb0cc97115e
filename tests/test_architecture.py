"""The shape of the project, held by tests: rooms, imports, stage shells, and that folders are DVC's cache key."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.runtime.code import ROOT, code_of, imported, path_of
from pipeline.runtime.work import Work

# From top to bottom: a room imports from its own and from those on later lines; rooms of one line are blind to each other.
ROOMS = (
    ("cluster",),
    ("report", "planning"),
    ("evaluation",),
    ("student",),
    ("teacher",),
    ("cache", "training"),
    ("views",),
    ("data",),
    ("base",),
    ("runtime",),
)
FLOOR = {room: number for number, line in enumerate(ROOMS) for room in line}
MODULES = sorted(path for path in (ROOT / "pipeline").glob("*/*.py") if path.stem != "__init__")
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted(path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")


def name_of(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}"


def test_the_package_consists_of_the_rooms_and_each_has_a_door() -> None:
    folders = {path.name for path in (ROOT / "pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOOR)
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]
    for room in FLOOR:
        door = ast.parse((ROOT / "pipeline" / room / "__init__.py").read_text())
        text = ast.get_docstring(door)
        assert len(door.body) == 1 and text, f"{room}: a door is a docstring and re-exports nothing"
        assert 5 <= len(text.splitlines()) <= 10, room
        modules = {path.stem for path in MODULES if path.parent.name == room}
        named = set(re.findall(r"``(\w+)``", text))
        assert modules <= named, f"{room}: its door does not name {sorted(modules - named)}"


def test_architecture_md_has_a_line_for_each_file_and_the_readme_for_each_room() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().partition("## Files")[2].split("```")[1]
    listed, folder = [], ""
    for line in tree.strip().splitlines():
        name, _, meaning = line.strip().partition(" ")
        if line.startswith("  "):
            listed.append(f"{folder}{name}")
            assert meaning.strip(), f"ARCHITECTURE.md, Files: {name} has no meaning"
        else:
            folder = name if (ROOT / name).is_dir() else f"pipeline/{name}"
    places = [path for top in ("stages", "bench", "pipeline") for path in (ROOT / top).rglob("*.*")]
    kept = {path for path in places if path.suffix in (".py", ".html", ".cu", ".sh") and path.stem != "__init__"}
    there = {str(path.relative_to(ROOT)) for path in kept} | {"pipeline/views/canary_images/"}
    assert len(set(listed)) == len(listed)
    assert set(listed) == there, (
        f"ARCHITECTURE.md, Files: no such {set(listed) - there}, no line of {there - set(listed)}"
    )
    readme = (ROOT / "README.md").read_text().partition("configs/  ")[2].partition("```")[0]
    assert re.findall(r"^  (\w+)/", readme, re.M) == list(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_and_never_round(path: Path) -> None:
    room = path.parent.name
    for other in imported(path):
        assert (ROOT / "pipeline" / f"{other.replace('.', '/')}.py").is_file(), f"{name_of(path)}: {other} is no module"
        below = other.split(".")[0]
        assert below == room or FLOOR[below] > FLOOR[room], f"{name_of(path)} imports {other}, which is not below it"
        assert name_of(path) not in imported(ROOT / "pipeline" / f"{other.replace('.', '/')}.py"), (
            f"{name_of(path)} and {other} import each other"
        )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_library_knows_no_click_no_dvc_and_modules_stay_short(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"^\s*(import|from) (click|dvc)\b", text, re.M)
    assert len(text.splitlines()) <= 280, f"{name_of(path)}: a module is one room"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_long_functions_say_at_each_step_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = lines[node.body[0].lineno - 1 : node.end_lineno]
            if ast.get_docstring(node) is not None:
                body = lines[node.body[0].end_lineno : node.end_lineno]
            if len(body) > 40:
                steps = sum(line.strip().startswith("#") for line in body)
                assert steps >= len(body) // 20, f"{name_of(path)}.{node.name}: {len(body)} lines, {steps} steps named"


def parameters(path: Path) -> Iterator[tuple[str, int]]:
    """Functions and methods of a file that are no click command and no numba kernel, with how many parameters each has."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and not re.search(
            r"\b(kernel|inlined|command)\b", " ".join(map(ast.unparse, node.decorator_list))
        ):
            given = [of.arg for of in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            yield f"{path.stem}.{node.name}", len(given) - (given[:1] in (["self"], ["cls"]))


def test_no_function_has_more_than_seven_parameters_and_few_have_seven() -> None:
    counts = [found for path in [*MODULES, *SCRIPTS] for found in parameters(path)]
    assert len(counts) > 500
    assert not [name for name, count in counts if count > 7]
    assert len(seven := [name for name, count in counts if count == 7]) <= 5, seven


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_global_generator_but_the_students_own(path: Path) -> None:
    # initial weights, stochastic depth and their state
    allowed = {"training.loop", "student.train", "teacher.fit", "training.checkpoint"}
    text = path.read_text()
    assert not re.search(r"^\s*(import random|from random import)|np\.random|numpy\.random", text, re.M)
    if name_of(path) not in allowed:
        assert not re.search(r"manual_seed\(|torch\.(rand|randn|randint|randperm)\(", text)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_runtime_imports_torch_only_where_it_is_used(path: Path) -> None:
    if path.parent.name == "runtime":
        tops = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("torch" in ast.unparse(node) for node in tops)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_stages_are_shells(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def elsewhere(room: str) -> dict[str, list[str]]:
    """The test files of modules that have other ones than their namesake: ``module: file, file`` in a room's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / "tests" / room / "__init__.py").read_text())) or ""
    return {name: files.split(", ") for name, files in re.findall(r"^(\w+): (.+)$", text, re.M)}


@cache
def reached(test: Path) -> set[Path]:
    """The files that a test file imports, itself or through others, of ``pipeline``, ``stages`` and ``tests.support``."""
    found, todo = set[Path](), [test]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += [path_of(module) for module in imported(path)]
            if path.parent.parent != ROOT / "pipeline":
                named = re.findall(
                    r"^from ((?:stages|tests|bench)[\w.]*) import \(?([\w, \n]+)", path.read_text(), re.M
                )
                names = [top for top, _ in named] + [
                    f"{top}.{name}" for top, them in named for name in re.findall(r"\w+", them)
                ]
                todo += [place for name in names if (place := ROOT / f"{name.replace('.', '/')}.py").is_file()]
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_is_tested_by_its_namesake_or_where_its_rooms_tests_say(path: Path) -> None:
    room = path.parent.name
    files = elsewhere(room).get(path.stem, [f"{room}/test_{path.stem}.py"])
    assert files != [f"{room}/test_{path.stem}.py"] or path.stem not in elsewhere(room), "a namesake needs no line"
    for file in files:
        assert (ROOT / "tests" / file).is_file() and path in reached(ROOT / "tests" / file), file


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_every_test_file_of_a_room_is_the_namesake_of_a_module_or_stands_in_a_line(room: str) -> None:
    modules = {path.stem for path in MODULES if path.parent.name == room}
    named = {file for files in elsewhere(room).values() for file in files}
    assert set(elsewhere(room)) <= modules
    for path in (ROOT / "tests" / room).glob("test_*.py"):
        assert path.stem.removeprefix("test_") in modules or f"{room}/{path.name}" in named, path.name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_test_is_imported_and_a_bench_only_by_its_namesake(path: Path) -> None:
    """What two tests share stands in ``tests/support``, which a bench may import."""
    named = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in named if isinstance(node, ast.Import) for alias in node.names}
    modules |= {
        f"{node.module}.{alias.name}" for node in named if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert not [name for name in modules if name.startswith("tests.") and not name.startswith("tests.support.")]
    for name in modules:
        if name.startswith("bench."):
            assert path.parent.name == "bench" and path.stem.removeprefix("test_") in name.split("."), name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_test_has_a_deadline_that_a_loaded_machine_misses(path: Path) -> None:
    """A deadline is a guard against hanging for ever; what a test waits for is an event."""
    given = re.findall(r"timeout=(\d+)|monotonic\(\) \+ (\d+)|\.(?:join|wait)\((\d+)\)", path.read_text())
    assert all(int("".join(seconds)) >= 600 for seconds in given), given


def test_a_stage_reaches_itself_and_no_runtime() -> None:
    reached = code_of("train")
    assert reached[0] == "stages/train.py" and "pipeline/student/losses.py" in reached
    assert not any(path.startswith("pipeline/runtime/") for path in reached)


def entry(stage: str) -> dict:
    return DVC[stage].get("do", DVC[stage])


def script_of(stage: str) -> str:
    cmd = entry(stage)["cmd"]  # of a list the last makes the outs
    found = re.match(r"python -m stages\.(\w+)", cmd if isinstance(cmd, str) else cmd[-1])
    assert found, stage
    return found[1]


@pytest.mark.parametrize("stage", sorted(DVC))
def test_a_stage_depends_on_exactly_the_folders_that_it_reaches(stage: str) -> None:
    named = {dep for dep in entry(stage)["deps"] if dep.startswith(("pipeline", "stages"))}
    reached = code_of(script_of(stage))
    assert named == {reached[0], *(path.rpartition("/")[0] for path in reached[1:])}


def read_of_params(path: Path, scope: ast.AST | None = None) -> Iterator[str]:
    """The entries of params.yaml that ``scope`` (None: all) of a Python file reads, in the words of dvc.yaml:
    ``load(params, f"recipes.{config.recipe}", ...)`` is ``recipes.${item.recipe}``; ``NamedCache.load(params, name)`` is what
    that reads. ``peek(NamedCache.load, ...)`` is a check that can only refuse, and counts for nothing."""
    tree = ast.parse(path.read_text())
    homes = {a.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module for a in n.names}
    for call in (node for node in ast.walk(scope or tree) if isinstance(node, ast.Call)):
        name, _, method = ast.unparse(call.func).partition(".")
        if method == "load" and homes.get(name, "").startswith("pipeline."):
            assert [ast.unparse(given) for given in call.args[1:]] in ([], ["name"]), (
                "DVC can't name a piece of a piece"
            )
            home = path_of(homes[name].removeprefix("pipeline."))
            yield from read_of_params(home, loader_of(home, name))
        elif name in ("load", "load_each", "names") and not method:
            key = ast.unparse(call.args[1]).removeprefix("f").strip("'\"")
            pattern = r"\{(?:[\w.]+\.)?(\w+)\}"
            key = re.sub(pattern, lambda found: "${key}" if found[1] == "name" else f"${{item.{found[1]}}}", key)
            yield key.removesuffix(".fit")


def loader_of(path: Path, name: str) -> ast.FunctionDef:
    """The method ``load`` of class ``name``."""
    (of,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name)
    (load,) = (node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == "load")
    return load


@pytest.mark.parametrize("stage", sorted(DVC))
def test_a_stage_reads_exactly_the_entries_of_params_that_it_declares(stage: str) -> None:
    read = set(read_of_params(ROOT / "stages" / f"{script_of(stage)}.py"))
    assert read == {str(param) for param in entry(stage)["params"]}


def test_what_is_on_disk_is_a_table_and_code_that_agree() -> None:
    """Every folder of ``Work`` stands in ARCHITECTURE.md's table, by the same word for a piece's name."""
    table = set(re.findall(r"`work/([\w/<>]+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    places = [member for name, member in vars(Work).items() if not name.startswith("_") and callable(member)]
    assert len(places) >= 8
    for place in places:
        path = place(Work(Path()), "<name>").as_posix().removesuffix("/model.safetensors")
        assert path in table or path.replace("<name>", "<split>") in table, path


def test_no_out_is_persisted_or_kept_from_the_cache() -> None:
    for stage in DVC:
        for out in entry(stage)["outs"]:
            if out == {
                "work/index.tsv": {"persist": True}
            }:  # it keeps the order; a stage that always runs has no run cache
                continue
            assert isinstance(out, str), f"{stage}: persist and cache: false switch DVC's run cache off"


def test_the_graph_can_be_read_aloud() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) <= 140 and all(entry(stage)["desc"] for stage in DVC)
    commands = re.findall(r"cmd: (.*)|^      - (python .*)", text, re.M)
    assert all(len(re.findall(r" --", "".join(command))) <= 2 for command in commands)
