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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.cache.layout import NamedCache, caches, read_identity
from pipeline.cluster import slurm
from pipeline.cluster.graph import LISTS, Graph, Stage, load_graph
from pipeline.cluster.script import JOBS
from pipeline.runtime.config import read_yaml
from pipeline.runtime.errors import PipelineError
from pipeline.runtime.progress import RUNNING
from pipeline.runtime.text import clipped, printable
from pipeline.runtime.units import duration, number

_TAIL = 1 << 16  # bytes of a log that are read
_ERRORS = (
    re.compile(r"^(?!srun|slurmstepd).*(error:|Error\b|Killed)"),
    re.compile(r"^job \S+:"),
)  # first what a stage says
_SILENT = 120  # seconds after which a loop that writes every ten counts as silent


@dataclass
class StageStatus:
    """``state``: made, there (outputs that neither a job nor DVC has recorded with these parameters), running, silent (a loop
    whose process says nothing any more), one of Slurm's, or "to do"."""

    name: str
    state: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What is known of the project in ``root`` with the work pool ``pool``."""

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

    def _stage(self, stage: Stage) -> StageStatus:
        names = [stage.name, f"label@{stage.piece}"] if stage.base == "precompute" else [stage.name]
        loops = [loop for loop in self._loops if _made_by(stage, loop["command"])]
        jobs = [(name, *job) for name in names for job in self._jobs.get(name, [])]
        there = all((self.root / out).exists() for out in stage.outs)
        state = "made" if there and self._made(stage) else "there" if there else "to do"
        lines = [self._loop_line(loop) for loop in loops]
        if stage.base == "precompute" and not there:
            lines += self._parts(stage.piece)
        for name, number_, what in jobs:
            state = what.lower()
            restarts = self._restarts(name, number_)
            lines.append(f"job {number_} {name}: {what}{f', {restarts} restarts' if restarts else ''}")
        if loops and (not jobs or "running" in state):
            fresh = any(self.now - loop["time"] < _SILENT for loop in loops)
            state = "running" if fresh else "silent"
        if state not in ("made", "there", "running"):
            lines += [line for name in names if (line := self._last_error(name))]
        return StageStatus(stage.name, state, lines)

    def _made(self, stage: Stage) -> bool:
        """Whether a job's stamp is younger than the outputs, or DVC has recorded this command with these parameters, and the
        outputs are there; ``dvc status`` also compares code and content."""
        outs = [self.root / out for out in stage.outs]
        with suppress(OSError):
            last = max(out.stat().st_mtime for out in outs)
            if (self.root / JOBS / f"{stage.name}.done").stat().st_mtime >= last:
                return True
        entry = self._lock.get(stage.name)
        if not isinstance(entry, Mapping):
            return False
        kept, command = entry.get("params", {}).get("params.yaml", {}), entry.get("cmd")
        command = " && ".join(command) if isinstance(command, list) else command
        return command == stage.command and all(kept.get(of) == self.graph.value(of) for of in stage.params)

    @cached_property
    def _lock(self) -> Mapping[str, Any]:
        with suppress(PipelineError, OSError):
            return read_yaml(self.root / "dvc.lock").get("stages", {})
        return {}

    @cached_property
    def _loops(self) -> list[dict[str, Any]]:
        """What the loops that run have left, those of no other project first read first."""
        found = []
        for path in sorted((self.pool / RUNNING).glob("*.json")):
            try:
                loop = json.loads(path.read_bytes()[:_TAIL])
                loop["command"] = [str(word) for word in loop["command"]]
                found.append({**loop, **{key: float(loop[key]) for key in ("time", "done", "total", "per_s")}})
            except (OSError, ValueError, TypeError, KeyError):
                self.problems.append(f"{path}: not what a running stage leaves there; remove it")
        return found

    def _loop_line(self, loop: Mapping[str, Any]) -> str:
        done, total, speed = loop["done"], loop["total"], loop["per_s"]
        said = [f"{loop['title']}: {done:.0f}/{total:.0f} {loop['unit']}"]
        if speed:
            said.append(f"{number(speed)}/s, {duration((total - done) / speed)} left")
        said += [str(loop["note"])] if loop.get("note") else []
        if loop.get("saved"):
            said.append(f"saved {duration(self.now - float(loop['saved']))} ago")
        if self.now - loop["time"] > _SILENT:
            said.append(f"no sign for {duration(self.now - loop['time'])} from process {loop['pid']} on {loop['host']}")
        return printable(", ".join(said))

    def _parts(self, name: str) -> Iterator[str]:
        """Of the newest cache in the pool that params.yaml can mean by ``name``."""
        try:
            wanted = NamedCache.load(self.root / "params.yaml", name)
            found = [path for path in caches(self.pool) if _is(wanted, path)]
        except (PipelineError, OSError) as error:
            yield f"{self.pool}: {clipped(str(error), 200)}"
            return
        if not found:
            return
        pool = max(found, key=lambda path: (path / "commits").stat().st_mtime if (path / "commits").is_dir() else 0.0)
        layout = read_identity(pool)["layout"]
        every = -(-layout["samples"] // layout["shard_size"]) * (wanted.config.views // wanted.config.group)
        times = sorted(_times(pool / "commits"))
        in_work = sum(1 for _ in os.scandir(pool / "staging")) if (pool / "staging").is_dir() else 0
        line = f"{pool.name}: {len(times)} of {every} parts" + (f", {in_work} being written" if in_work else "")
        recent = [when for when in times if when > self.now - 3600]
        if len(recent) > 1 and len(times) < every:
            rate = (len(recent) - 1) / max(self.now - recent[0], 1.0)
            line += f", {number(3600 * rate)} per hour, {duration((every - len(times)) / rate)} left"
        yield line

    @cached_property
    def _jobs(self) -> dict[str, list[tuple[str, str]]]:
        """By name of a job of this folder: ids and states of those in the queue, else of the last that ended badly."""
        found: dict[str, list[tuple[str, str]]] = {}
        if not shutil.which("squeue"):
            return found
        try:
            for comment, (number_, state) in slurm.queue().items():
                name, _, rest = comment.partition(" ")
                if rest.partition(" ")[2] == str(self.root):
                    found.setdefault(name, []).append((number_, state))
        except PipelineError as error:
            self.problems.append(f"jobs are not known: {error}")
            return found
        last = {name: number_.partition("_")[0] for name, number_ in self._logs if name not in found}
        ended = slurm.ended(last.values())
        return found | {
            name: [(of, ended[of])] for name, of in last.items() if ended.get(of, "COMPLETED") != "COMPLETED"
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

    def _last_error(self, job: str) -> str:
        """The last line of the newest log of a job that tells of an error, with the log."""
        logs = [path for (name, _), path in self._logs.items() if name == job]
        if not logs:
            return ""
        with suppress(OSError), logs[-1].open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
            told = [line for form in reversed(_ERRORS) for line in lines if form.search(line)]
            return f"{logs[-1]}: {clipped(printable(told[-1]), 300)}" if told else ""
        return ""

    def as_json(self, stages: list[StageStatus]) -> dict[str, Any]:
        """``stages`` in order with ``state`` and ``lines``, what ``loops`` left, and ``problems``."""
        return {"stages": [asdict(of) for of in stages], "loops": self._loops, "problems": self.problems}


def table(run: Run) -> list[str]:
    """One line per stage, what is known of it below, then what comes next."""
    stages = run.stages()
    width = max(len(of.name) for of in stages)
    made = sum(of.state == "made" for of in stages)
    lines = [f"{made} of {len(stages)} stages are made; work pool {run.pool}"]
    for of in stages:
        lines += [f"{of.name:{width}}  {of.state}", *(f"{'':{width}}  {line}" for line in of.lines)]
    lines += run.problems
    idle = not any(of.state in ("running", "pending") for of in stages)
    todo = [of.name for of in stages if of.state not in ("made", "there", "running", "pending")]
    if todo and idle:
        how = "python -m stages.submit" if (run.root / JOBS).is_dir() else "dvc repro"
        lines.append(f"next: {todo[0]}; nothing runs: {how}")
    return lines


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
