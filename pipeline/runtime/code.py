"""Which modules a stage reaches by its imports: the key of a run in the work pool holds their hashes.

``runtime`` is left out: nothing in it may change a byte of any output. In ``dvc.yaml`` a stage depends on whole folders,
which ``tests/test_architecture.py`` compares with those of these modules.
"""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def imported(path: Path) -> frozenset[str]:
    """The pipeline's modules that the Python file ``path`` imports, wherever in the file, as ``room.module``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("pipeline.") for alias in node.names if alias.name.startswith("pipeline.")
            }
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline."):
            place = node.module.removeprefix("pipeline.")
            found |= {place} if "." in place else {f"{place}.{alias.name}" for alias in node.names}
    return frozenset(found)


def path_of(module: str) -> Path:
    """The file of ``room.module``."""
    return ROOT / "pipeline" / f"{module.replace('.', '/')}.py"


def code_of(stage: str) -> list[str]:
    """The files that ``stages/<stage>.py`` reaches, itself first: paths from the project's root, sorted; among them the CUDA
    sources that stand beside its modules."""
    reached: set[str] = set()
    todo = set(imported(ROOT / "stages" / f"{stage}.py"))
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo |= imported(path_of(module))
    modules = {path_of(module) for module in reached if not module.startswith("runtime.")}
    sources = {source for room in {path.parent for path in modules} for source in room.glob("*.cu")}
    return [f"stages/{stage}.py", *sorted(path.relative_to(ROOT).as_posix() for path in modules | sources)]
