"""The import graph, which is the cache key: which modules a stage's result depends on (layer L0).

A stage depends on itself and on every module of layer L1 and above that it reaches; on nothing of L0, which may not
change a byte of any output. ``tests/test_architecture.py`` holds ``dvc.yaml`` equal to this.
"""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "config runtime imports",
        "files keyed images listing folders tars cifar foreign sources pack shards "
        "augment views draw pairs finish canary schedule "
        "targets layout store record difference commit pool cache publish verification "
        "models weights heads teacher student losses metrics checkpoint optimize",
        "visit label loader supervision identity loop scoring",
        "compose precompute fit train evaluate gallery report plan audit inspection",
    )
)


def layer(module: str) -> int:
    """Layer 0-3 of ``pipeline.<module>``. Raises KeyError for a module without a layer."""
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    raise KeyError(f"pipeline.{module} has no layer; give it one in pipeline/imports.py")


@cache
def imported(path: Path) -> frozenset[str]:
    """Names of the pipeline modules that the Python file ``path`` imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pipeline.")}
    return frozenset(found)


def code_of(stage: str) -> list[str]:
    """The files that ``stages/<stage>.py`` depends on, itself first: paths from the project's root, sorted."""
    reached: set[str] = set()
    todo = set(imported(ROOT / "stages" / f"{stage}.py"))
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo |= imported(ROOT / "pipeline" / f"{module}.py")
    return [f"stages/{stage}.py", *(f"pipeline/{module}.py" for module in sorted(reached) if layer(module) > 0)]


if __name__ == "__main__":  # prints the lists for dvc.yaml
    for script in sorted((ROOT / "stages").glob("[a-z]*.py")):
        print(script.stem, *code_of(script.stem), sep="\n  - ")
