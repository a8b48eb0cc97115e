"""dvc.yaml as a graph of stages: what each waits for, and a key of all that decides its outputs.

The chain of jobs is read from the file that ``dvc repro`` reads, so that a stage is described once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from pipeline.base.files import digest, sha256_file
from pipeline.runtime.config import read_yaml
from pipeline.runtime.errors import UsageError

LISTS = "index"  # the stage that runs on the login node
_CODE = (".py", ".cu", ".jpg", ".html")  # what counts under pipeline/ and stages/, as .dvcignore says


@dataclass(frozen=True)
class Stage:
    """A stage under the name that DVC gives it, such as ``train@hard``."""

    name: str
    command: str
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def base(self) -> str:
        return self.name.partition("@")[0]

    @property
    def piece(self) -> str:
        return self.name.partition("@")[2]


@dataclass(frozen=True)
class Graph:
    """The stages of a project in the folder ``root``, by name, with the values of ``params``."""

    root: Path
    params: Mapping[str, Any]
    stages: Mapping[str, Stage]

    def needs(self, name: str) -> list[str]:
        """The stages whose outputs a stage reads."""
        deps = self.stages[name].deps
        return [
            other.name
            for other in self.stages.values()
            if other.name != name and any(_touch(dep, out) for dep in deps for out in other.outs)
        ]

    def with_all_needed(self, names: Iterable[str]) -> list[str]:
        """``names`` and all stages that they wait for, each behind those."""
        order: dict[str, None] = {}

        def add(name: str) -> None:
            if name not in order:
                for needed in self.needs(name):
                    add(needed)
                order[name] = None

        for name in names:
            add(name)
        return list(order)

    def keys(self, among: Iterable[str]) -> dict[str, str]:
        """For each of these stages the hash of its command, parameters and code, of what it reads of the listing stage, and
        of the keys of the others that it needs among them."""
        keys: dict[str, str] = {}
        chosen, below = set(among) - {LISTS}, cache(partial(_hashes_below, self.root))
        for name in filter(chosen.__contains__, self.with_all_needed(sorted(chosen))):
            of = self.stages[name]
            read = [dep for dep in of.deps if dep.startswith(("pipeline/", "stages/"))]
            read += [dep for dep in of.deps if any(_touch(dep, out) for out in self.stages[LISTS].outs)]
            values = {path: self.value(path) for path in of.params}
            needed = [keys[other] for other in self.needs(name) if other in chosen]
            keys[name] = digest([of.command, values, [below(path) for path in read], needed])
        return keys

    def value(self, path: str) -> Any:
        """The entry at a dotted path of params; only the first dot divides, as names may hold none."""
        section, _, name = path.partition(".")
        value = self.params.get(section)
        return value.get(name) if name and isinstance(value, dict) else value


def _hashes_below(root: Path, top: str) -> dict[str, str]:
    """SHA-256 of a file, or of each file below a folder; below ``pipeline`` of those that count."""
    place = root / top
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    counted = (path for path in files if top.startswith("work/") or path.suffix in _CODE)
    return {str(path.relative_to(root)): sha256_file(path) for path in counted}


def _touch(dep: str, out: str) -> bool:
    """Whether one path lies in the other, or is it."""
    return dep == out or dep.startswith(f"{out}/") or out.startswith(f"{dep}/")


def load_graph(root: Path, params: Mapping[str, Any]) -> Graph:
    """The graph of ``dvc.yaml`` in ``root`` with the pieces of ``params``. Raises UsageError."""
    stages = {stage.name: stage for stage in _stages(read_yaml(root / "dvc.yaml"), params)}
    return Graph(root, params, stages)


def _stages(document: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Stage]:
    for base, entry in document["stages"].items():
        if "foreach" not in entry:
            yield _stage(base, entry, {})
            continue
        for name, item in params[entry["foreach"].strip("${}")].items():
            yield _stage(f"{base}@{name}", entry["do"], {"key": name, **{f"item.{k}": v for k, v in item.items()}})


def _stage(name: str, entry: Mapping[str, Any], names: Mapping[str, Any]) -> Stage:
    def filled(text: str) -> str:
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(names[found[1]]), text)

    try:
        command = entry["cmd"] if isinstance(entry["cmd"], str) else " && ".join(entry["cmd"])
        # An entry with settings, such as an out that DVC keeps, is a mapping of its path.
        lists = {
            part: tuple(filled(of if isinstance(of, str) else next(iter(of))) for of in entry.get(part, ()))
            for part in ("params", "deps", "outs")
        }
        return Stage(name, filled(command), **lists)
    except (KeyError, TypeError) as error:
        raise UsageError(f"dvc.yaml: {name}: not a stage of this project ({error})") from None
