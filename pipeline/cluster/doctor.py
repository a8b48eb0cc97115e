"""What this machine has and lacks for a run: a line per check, in seconds, without a model."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster import machine_checks as checks
from pipeline.cluster.config import load_cluster
from pipeline.cluster.machine_checks import State
from pipeline.cluster.submit import misfits
from pipeline.data.sources import find_root
from pipeline.planning.codecs import bytes_of
from pipeline.planning.pieces import Pieces, parse_pieces
from pipeline.runtime.config import read_yaml
from pipeline.runtime.errors import PipelineError, UsageError
from pipeline.runtime.libraries import slow
from pipeline.runtime.text import few
from pipeline.runtime.units import size

_REFLINKS = ("btrfs", "xfs", "zfs")


@dataclass(frozen=True)
class Finding:
    """``state``: ok, a note of what costs time or will be missed later, or what stops a run."""

    name: str
    state: State
    text: str


def examine(root: Path, pool: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """The checks of the project in ``root`` with the work pool ``pool``, each as soon as it is done. A check that the system
    refuses is a finding that stops."""
    try:
        pieces = parse_pieces(read_yaml(root / "params.yaml"))
        yield Finding("params.yaml", "ok", f"{len(pieces.students)} students, {len(pieces.caches)} caches")
    except PipelineError as error:
        pieces = None
        yield Finding("params.yaml", "stop", str(error))
    wanted: dict[str, Callable[[], Iterator[tuple[State, str]]]] = {
        "python": partial(_python, root),
        "libraries": partial(_libraries, root),
        "gpu": checks.gpu,
        "cores": checks.cores,
        "memory": checks.memory,
        "kernels": checks.kernels,
        "pool": partial(checks.pool, pool),
        "space": partial(_space, pool, pieces, root),
        "dvc": partial(_dvc, root),
        "data": partial(_data, pieces, environment),
        "slurm": partial(_slurm, root),
    }
    for name, check in wanted.items():
        try:
            yield from (Finding(name, state, text) for state, text in check())
        except PipelineError as error:
            yield Finding(name, "stop", str(error))
        except OSError as error:
            yield Finding(name, "stop", f"{error.filename or name}: {error.strerror or error}")


def _python(root: Path) -> Iterator[tuple[State, str]]:
    pins = root / "pyproject.toml"
    needs = _toml(pins)["project"]["requires-python"] if pins.is_file() else ""
    yield (
        "ok",
        f"{platform.python_version()} on {platform.machine()}" + (f", the project needs {needs}" if needs else ""),
    )


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path.name}: is no TOML ({error}); restore it: git checkout {path.name}") from None


def _libraries(root: Path) -> Iterator[tuple[State, str]]:
    """Compared with uv.lock; another version of what is installed is a note, since pip may have chosen it."""
    lock = root / "uv.lock"
    if not lock.is_file():
        yield "note", "no uv.lock here to compare with"
        return
    locked: dict[str, set[str]] = {}  # more than one version where it depends on Python's
    for of in _toml(lock)["package"]:
        locked.setdefault(of["name"], set()).add(of.get("version", "").partition("+")[0])
    names = {re.sub(r"[_.]", "-", of.metadata["Name"].lower()): of.version for of in importlib.metadata.distributions()}
    needed = ("torch", "torchvision", "timm", "webdataset", "zarr", "numpy", "click", "pillow", "numba", "dvc")
    absent = [name for name in needed if name not in names]
    other = [
        f"{name} {names[name]}, locked {' or '.join(sorted(locked[name]))}"
        for name in sorted(names)
        if name in locked and names[name].partition("+")[0] not in locked[name]
    ]
    if absent:
        yield ("note" if absent == ["numba"] else "stop"), f"not installed: {', '.join(absent)}; run: uv sync --frozen"
    if other:
        yield "note", f"{few(other, 5)}; run: uv sync --frozen"
    yield from (("note", text) for text in slow())
    if not absent and not other:
        yield "ok", f"{len(names)} as uv.lock says"


def _space(pool: Path, pieces: Pieces | None, root: Path) -> Iterator[tuple[State, str]]:
    """Free space against the bytes of all caches, once in the pool and once published."""
    folder = next(path for path in (pool, *pool.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    shape = _shape(pieces, root)
    if pieces is None or shape is None:
        yield (
            "ok",
            f"{size(free)} free; what caches need is known when params.yaml or the shards say the images and classes",
        )
        return
    samples, classes = shape
    need = 2 * sum(bytes_of(of.codec, classes, of.views * samples) for of in pieces.caches.values())
    text = f"{size(free)} free, caches take {size(need)} in the pool and published; python -m stages.plan says the rest"
    yield (
        ("ok" if free > need else "stop"),
        text + ("" if free > need else "; free some, or choose another codec or fewer views"),
    )


def _shape(pieces: Pieces | None, root: Path) -> tuple[int, int] | None:
    """Training images and classes, as the shards or the configuration say."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest: dict[str, Any] = json.loads((root / "work/shards/train/manifest.json").read_bytes())
        return int(manifest["samples"]), len(manifest["classes"])
    data = pieces.data if pieces is not None else None
    if data is None or data.expected is None or data.expected.train is None or data.classes is None:
        return None
    return data.expected.train, data.classes


def _dvc(root: Path) -> Iterator[tuple[State, str]]:
    """Whether DVC's cache can share files with ``work``, by its cache type and the file systems."""
    if not (root / ".dvc").is_dir():
        yield "note", "this folder is no DVC project; stages run as commands, dvc repro does not"
        return
    cache = root / (_dvc_setting(root, "cache.dir") or ".dvc/cache")
    how = (_dvc_setting(root, "cache.type") or "reflink,copy").split(",")
    here, there = (next(path for path in (of, *of.parents) if path.exists()) for of in (cache, root / "work"))
    kind = checks.file_system(there)
    if here.stat().st_dev != there.stat().st_dev:
        yield "note", f"{cache} and work lie on two file systems: DVC copies every output; move one (dvc cache dir)"
    elif {"hardlink", "symlink"} & set(how) or ("reflink" in how and kind in _REFLINKS):
        yield "ok", f"{cache} shares its files with work ({', '.join(how)} on {kind})"
    else:
        yield (
            "note",
            f"{kind} has no reflinks: DVC copies every output into {cache}; dvc config cache.type hardlink,copy shares them",
        )


def _dvc_setting(root: Path, name: str) -> str:
    command = [sys.executable, "-m", "dvc", "config", name]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()


def _data(pieces: Pieces | None, environment: Mapping[str, str]) -> Iterator[tuple[State, str]]:
    if pieces is None or pieces.data is None:
        return
    folder = find_root(pieces.data.source, environment)
    if pieces.data.source == "digits":
        yield "ok", "digits, which come with scikit-learn"
        return
    names = sorted(entry.name for entry in os.scandir(folder))
    yield ("ok" if names else "stop"), f"{folder}: {few(names, 5) or 'empty'}"


def _slurm(root: Path) -> Iterator[tuple[State, str]]:
    if shutil.which("sbatch") is None:
        yield "ok", "not on this machine: dvc repro runs here"
        return
    where = Path(os.environ.get("DISTIL_CLUSTER") or root / "cluster.yaml").expanduser()
    if not where.is_file():
        yield "note", f"no {where.name}; stages.submit needs it: cp configs/slurm/cluster.yaml cluster.yaml"
        return
    _, cluster = load_cluster(where)
    problems = list(misfits(cluster))
    yield from (("stop", f"{where.name}: {problem}") for problem in problems)
    if not problems:
        yield "ok", f"{where.name} names partitions and accounts that are there"
