"""A job as sbatch text: what it asks for, its environment, its command, and what it does with the exit code (``job.sh``)."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.config import JobKind

RULES = Path(__file__).with_name("job.sh")
JOBS = Path("work/jobs")  # logs and stamps
_VARIABLES = ("DATA_ROOT", "IMAGENET_ROOT", "TEST_ROOT", "HF_HOME", "OMP_NUM_THREADS", "NUMBA_CACHE_DIR")


@dataclass(frozen=True)
class Job:
    """One job of a chain. ``stage``: DVC's name of what it makes; ``after``: conditions of Slurm and names of jobs;
    ``width``: of an array, 0 for none; ``alone``: one process, whatever its kind says."""

    name: str
    stage: str
    kind: str
    command: str
    key: str
    after: tuple[tuple[str, str], ...]
    width: int = 0
    alone: bool = False


def sbatch_text(job: Job, kind: JobKind, pool: Path, root: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The script of ``job`` in the project's folder ``root``, with the work pool ``pool``."""
    nodes, ranks, gpus = (1, 1, min(1, kind.gpus)) if job.alone else (kind.nodes, kind.ranks, kind.gpus)
    asked = {
        "job-name": job.name,
        "comment": comment(job, root),
        "partition": kind.partition,
        "account": kind.account,
        "qos": kind.qos,
        "time": kind.time,
        "nodes": nodes,
        "ntasks-per-node": ranks,
        "cpus-per-task": kind.cpus,
        "gres": f"gpu:{gpus}" if gpus else None,
        "mem": kind.memory,
        "array": f"1-{job.width}" if job.width else None,
        "chdir": root,
        "output": root / JOBS / f"{job.name}-{'%A_%a' if job.width else '%j'}.log",
        "open-mode": "append",
        "signal": "USR1@120",
        "kill-on-invalid-dep": "yes",
    }
    flags = [f"--{name}={value}" for name, value in asked.items() if value is not None]
    given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    given |= {name: value for name, value in environment.items() if name.startswith("DISTIL_")}
    given |= {"DISTIL_POOL": str(pool.absolute())}
    names = {"name": job.name, "kind": job.kind, "key": job.key, "jobs": str(root / JOBS)}
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {shlex.quote(flag)}" for flag in [*flags, "--requeue", *kind.sbatch]),
            *(f"export {name}={shlex.quote(value)}" for name, value in sorted(given.items())),
            *(f"{name}={shlex.quote(value)}" for name, value in names.items()),
            *(kind.setup or ('export PATH="$PWD/.venv/bin:$PATH"',)),
            "",
            RULES.read_text(encoding="utf-8"),
            f"run {job.command}",
            "finish $?",
            "",
        ]
    )


def comment(job: Job, root: Path) -> str:
    """By which a second submission finds the job in the queue: what it makes, from what, and in which folder."""
    return f"{job.name} {job.key} {root}"
