"""How far a run is: each stage of dvc.yaml with its jobs, its loop and its cache's parts, from files alone.

Everything is read as it is found, without torch and without DVC: outputs and ``dvc.lock``, stamps and logs of jobs, what
loops leave in the work pool (``runtime.progress``), commit records of caches. ``squeue`` and ``sacct`` are asked where they are.
"""

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cache.layout import NamedCache, caches, read_identity
from pipeline.cluster import slurm
from pipeline.cluster.graph import LISTS, Graph, Stage, load_graph
from pipeline.cluster.script import JOBS
from pipeline.runtime.config import read_yaml
from pipeline.runtime.errors import PipelineError, first_line
from pipeline.runtime.progress import RUNNING
from pipeline.runtime.text import clipped, printable
from pipeline.runtime.units import duration, number

_TAIL = 1 << 16  # bytes of a log that are read
_ERRORS = (
    re.compile(r"^(?!srun|slurmstepd).*(error:|Error\b|Killed)"),
    re.compile(r"^job \S+:"),
)  # first what a stage says
_LIMIT = 10  # seconds in which squeue and sacct must answer
_SILENT = 120  # seconds after which a loop that writes every ten counts as silent


T = TypeVar("T")


@dataclass(frozen=True)
class StageStatus:
    """``state``: made, there (outputs that neither a job nor DVC has recorded with these parameters), running, silent (a loop
    whose process says nothing any more), one of Slurm's, or "to do". ``loops``: what ``runtime.progress`` left; ``jobs``:
    ``id``, ``name``, ``state``, ``restarts``; ``parts``: ``cache``, ``done``, ``all``, ``being_written``, ``per_hour`` (None
    where nothing was committed in the last hour); ``error``: ``log`` and its last ``line`` that tells of one."""

    name: str
    state: str
    loops: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    parts: dict[str, Any] | None
    error: dict[str, str] | None


@dataclass(frozen=True)
class Run:
    """What is known of the project in ``root`` with the work pool ``pool``; ``problems``: what could not be read."""

    root: Path
    pool: Path
    graph: Graph
    now: float
    problems: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, root: Path, pool: Path) -> "Run":
        """Raises UsageError for what is wrong in params.yaml or dvc.yaml."""
        return cls(root, pool, load_graph(root, read_yaml(root / "params.yaml")), time.time())

    def stages(self) -> list[StageStatus]:
        """In the order in which they are made."""
        order = self.graph.with_all_needed(self.graph.stages)
        return [self._stage(self.graph.stages[name]) for name in order]

    def _read(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        """What ``read`` gives; of files that others write or damage, a problem in place of an error."""
        try:
            return read()
        except (PipelineError, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            self.problems.append(f"{what}: not known: {clipped(first_line(error), 200)}")
            return otherwise

    def _stage(self, stage: Stage) -> StageStatus:
        names = [stage.name, f"label@{stage.piece}"] if stage.base == "precompute" else [stage.name]
        loops = [loop for loop in self._loops if _made_by(stage, loop["command"])]
        jobs = [job for name in names for job in self._jobs.get(name, [])]
        alive = [loop for loop in loops if self.now - loop["time"] < _SILENT]
        there = all((self.root / out).exists() for out in stage.outs)
        state = "to do"
        if there:
            state = "made" if self._read(f"dvc.lock: {stage.name}", lambda: self._made(stage), False) else "there"
        if jobs:
            state = jobs[-1]["state"].lower()
        if loops and state in ("to do", "there", "made", "running"):
            state = "running" if alive else state if state == "made" else "silent"
        loops = alive if alive or state == "made" else loops  # a killed process leaves its file
        parts = None
        if stage.base == "precompute" and not there:
            parts = self._read(f"{self.pool}: parts of {stage.piece}", lambda: self._parts(stage.piece), None)
        errors = [] if state in ("made", "there") else list(filter(None, map(self._last_error, names)))
        return StageStatus(stage.name, state, loops, jobs, parts, errors[0] if errors else None)

    def _made(self, stage: Stage) -> bool:
        """Whether a job's stamp is younger than the outputs, or DVC has recorded this command with these parameters; ``dvc
        status`` also compares code and content."""
        with suppress(OSError):
            last = max((self.root / out).stat().st_mtime for out in stage.outs)
            if (self.root / JOBS / f"{stage.name}.done").stat().st_mtime >= last:
                return True
        entry = self._lock.get(stage.name)
        if entry is None:
            return False
        kept, command = entry.get("params", {}).get("params.yaml", {}), entry.get("cmd")
        command = " && ".join(command) if isinstance(command, list) else command
        return command == stage.command and all(kept.get(of) == self.graph.value(of) for of in stage.params)

    @cached_property
    def _lock(self) -> Mapping[str, Any]:
        if not (self.root / "dvc.lock").is_file():
            return {}
        return self._read("dvc.lock", lambda: dict(read_yaml(self.root / "dvc.lock").get("stages") or {}), {})

    @cached_property
    def _loops(self) -> list[dict[str, Any]]:
        """What the loops that run have left."""
        paths = sorted((self.pool / RUNNING).glob("*.json"))
        found = (self._read(str(path), lambda path=path: _loop(path), None) for path in paths)  # type: ignore[misc]
        return [loop for loop in found if loop is not None]

    def _parts(self, name: str) -> dict[str, Any] | None:
        """Of the newest cache in the pool that params.yaml can mean by ``name``."""
        wanted = NamedCache.load(self.root / "params.yaml", name)
        found = [path for path in caches(self.pool) if _is(wanted, path)]
        if not found:
            return None
        pool = max(found, key=lambda path: (path / "commits").stat().st_mtime if (path / "commits").is_dir() else 0.0)
        layout, times = read_identity(pool)["layout"], sorted(_times(pool / "commits"))
        every = -(-layout["samples"] // layout["shard_size"]) * (wanted.config.views // wanted.config.group)
        staging, recent = pool / "staging", [when for when in times if when > self.now - 3600]
        rate = 3600 * (len(recent) - 1) / max(self.now - recent[0], 1.0) if len(recent) > 1 else None
        return {
            "cache": pool.name,
            "done": len(times),
            "all": every,
            "being_written": sum(1 for _ in os.scandir(staging)) if staging.is_dir() else 0,
            "per_hour": rate,
        }

    @cached_property
    def _jobs(self) -> dict[str, list[dict[str, Any]]]:
        """By name of a job of this folder: those in the queue, else the last if it ended badly."""
        found: dict[str, list[tuple[str, str]]] = {}
        if not shutil.which("squeue"):
            return {}
        queued = self._read("jobs", lambda: slurm.queue(_LIMIT), None)
        for comment, job in (queued or {}).items():
            name, _, rest = comment.partition(" ")
            if rest.partition(" ")[2] == str(self.root):
                found.setdefault(name, []).append(job)
        if queued is not None:
            last = {name: number_.partition("_")[0] for name, number_ in self._logs if name not in found}
            ended = slurm.ended(last.values(), _LIMIT)
            found |= {n: [(of, ended[of])] for n, of in last.items() if ended.get(of, "COMPLETED") != "COMPLETED"}
        return {
            name: [{"id": i, "name": name, "state": of, "restarts": self._restarts(name, i)} for i, of in jobs]
            for name, jobs in found.items()
        }

    @cached_property
    def _logs(self) -> dict[tuple[str, str], Path]:
        """By name and id of a job, oldest first."""
        found = (re.fullmatch(r"(.+)-(\d+)(_\d+)?\.log", path.name) for path in (self.root / JOBS).glob("*.log"))
        logs = {(of[1], of[2] + (of[3] or "")): self.root / JOBS / of[0] for of in found if of}
        return dict(sorted(logs.items(), key=lambda item: [int(part) for part in item[0][1].split("_")]))

    def _restarts(self, job: str, number_: str) -> int:
        """Of an array those of all its jobs."""
        total = 0
        for path in (self.root / JOBS).glob(f".{job}-{number_}*.restarts"):
            with suppress(OSError, ValueError, IndexError):
                total += int(path.read_text().split()[0])
        return total

    def _last_error(self, job: str) -> dict[str, str] | None:
        """The newest log of a job and its last line that tells of an error."""
        logs = [path for (name, _), path in self._logs.items() if name == job]
        with suppress(OSError, IndexError), logs[-1].open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
            told = [line for form in reversed(_ERRORS) for line in lines if form.search(line)]
            return {"log": str(logs[-1]), "line": clipped(printable(told[-1]), 300)} if told else None
        return None


def document(run: Run) -> dict[str, Any]:
    """``stages`` in order, the name of the ``next`` one, and ``problems``."""
    stages = run.stages()
    return {"stages": [asdict(of) for of in stages], "next": _next(stages), "problems": run.problems}


def table(run: Run) -> list[str]:
    """One line per stage, what is known of it below, then what comes next."""
    stages = run.stages()
    width = max(len(of.name) for of in stages)
    made = sum(of.state == "made" for of in stages)
    lines = [f"{made} of {len(stages)} stages are made; work pool {run.pool}"]
    for of in stages:
        lines += [f"{of.name:{width}}  {of.state}", *(f"{'':{width}}  {line}" for line in _lines(of, run.now))]
    lines += run.problems
    if (coming := _next(stages)) and not any(of.state in ("running", "pending") for of in stages):
        how = "python -m stages.submit" if (run.root / JOBS).is_dir() else "dvc repro"
        lines.append(f"next: {coming}; nothing runs: {how}")
    return lines


def _next(stages: list[StageStatus]) -> str | None:
    return next((of.name for of in stages if of.state not in ("made", "there", "running", "pending")), None)


def _lines(of: StageStatus, now: float) -> Iterator[str]:
    for loop in of.loops:
        left, silent = (loop["total"] - loop["done"]) / max(loop["per_s"], 1e-9), now - loop["time"]
        said = [f"{loop['title']}: {loop['done']:.0f}/{loop['total']:.0f} {loop['unit']}"]
        said += [f"{number(loop['per_s'])}/s, {duration(left)} left"] if loop["per_s"] else []
        said += [loop["note"]] if loop["note"] else []
        said += [f"saved {duration(max(0.0, now - loop['saved']))} ago"] if loop["saved"] else []
        said += (
            [f"no sign for {duration(silent)} from process {loop['pid']} on {loop['host']}"] if silent > _SILENT else []
        )
        yield printable(", ".join(said))
    if of.parts is not None:
        done, every, rate = of.parts["done"], of.parts["all"], of.parts["per_hour"]
        left = (
            f", {number(rate)} per hour, {duration(3600 * (every - done) / rate)} left" if rate and done < every else ""
        )
        writing = f", {of.parts['being_written']} being written" if of.parts["being_written"] else ""
        yield f"{of.parts['cache']}: {done} of {every} parts{writing}{left}"
    for job in of.jobs:
        again = f", {job['restarts']} restarts" if job["restarts"] else ""
        yield f"job {job['id']} {job['name']}: {job['state']}{again}"
    if of.error is not None:
        yield f"{of.error['log']}: {of.error['line']}"


def _loop(path: Path) -> dict[str, Any]:
    """What a loop has left. Raises ValueError, TypeError, KeyError for anything else."""
    loop = json.loads(path.read_bytes()[:_TAIL])
    found: dict[str, Any] = {key: float(loop[key]) for key in ("time", "done", "total", "per_s")}
    found |= {key: str(loop[key]) for key in ("title", "unit", "note", "pid", "host")}
    saved, job = loop["saved"], loop["job"]
    found |= {"saved": None if saved is None else float(saved), "job": None if job is None else str(job)}
    return found | {"command": [str(word) for word in loop["command"]]}


def _made_by(stage: Stage, command: list[str]) -> bool:
    """Whether a process with these words runs ``stage``; its first word is the path of the module."""
    module, *words = shlex.split(stage.command)[2:]
    name = Path(command[0]).with_suffix("").name if command else ""
    return stage.name != LISTS and name == module.rpartition(".")[2] and set(words) <= set(command[1:])


def _is(wanted: NamedCache, path: Path) -> bool:
    """Whether a cache of the pool may be ``wanted``: the same recipe, codec and view group; the rest needs the teacher."""
    try:
        identity = read_identity(path)
        recipe, layout = wanted.recipe.model_dump(mode="json"), identity["layout"]
        same = all(recipe.get(key) == value for key, value in identity["recipe"].items())
        return same and (layout["codec"], layout["group"]) == (wanted.config.codec, wanted.config.group)
    except (PipelineError, KeyError, TypeError, AttributeError):
        return False


def _times(folder: Path) -> Iterator[float]:
    """When each record below was committed."""
    if folder.is_dir():
        for group in os.scandir(folder):
            if group.is_dir():
                yield from (entry.stat().st_mtime for entry in os.scandir(group) if entry.name.endswith(".json"))
