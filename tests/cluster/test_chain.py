"""The demo at its smallest from one command to the report, on a real Slurm of two nodes, while its training of 2 x 2 ranks loses
ranks and a node."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.cluster.script import JOBS
from pipeline.runtime.code import ROOT
from tests.support import slurm as two
from tests.support.slurm import hurry, shown, state, until

pytestmark = pytest.mark.skipif(not two.INSTALLED, reason=two.WITHOUT)
TRAIN = {"partition": "main", "cpus": 1, "time": "1:00:00", "nodes": 2, "gpus": 2}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
ONE = {"partition": "main", "cpus": 1, "time": "1:00:00"}
SMALL = (
    "student=hard cache.views=3 cache.group=3 training.period=3 training.epochs=12 training.checkpoint_steps=20 "
    "training.optimizer.warmup_epochs=0 teacher.fit.epochs=1 teacher.fit.optimizer.warmup_epochs=0"
).split()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout of this code with its Python, and a Slurm beside it."""
    root = tmp_path_factory.mktemp("chain")
    folder = root / "project"
    folder.mkdir()
    for name in ("pipeline", "stages", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    python = f"export PATH={Path(sys.executable).parent}:$PATH"
    environment = "export DISTIL_DEVICE=cpu DISTIL_TIMEOUT=30 OMP_NUM_THREADS=1"
    kinds = {"cpu": ONE, "label": {**ONE, "array": 2}, "train": TRAIN, "evaluate": ONE}
    settings = {name: {**of, "setup": [python, environment]} for name, of in kinds.items()}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(settings))
    with two.cluster(root / "cluster"):
        run(folder, "dvc", "init", "--no-scm", "--quiet")
        yield folder


def run(folder: Path, module: str, *arguments: str) -> str:
    found = subprocess.run([sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def submitted(folder: Path) -> dict[str, str]:
    """By the names of the jobs that one ``submit`` submitted, their ids."""
    said = run(folder, "stages.submit")
    return dict(re.findall(r"^\w+ +(\S+) +(\d+)  after", said, re.M))


def logs(folder: Path, job: str) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted((folder / JOBS).glob(f"{job}*.log")))


def ranks(job: str) -> dict[int, int]:
    """Process ids of a job's ranks, without the loader processes that they have started."""
    found, parents = dict[int, int](), dict[int, int]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"stages.train" in command and f"SLURM_JOB_ID={job}".encode() in variables:
            for number in (int(of[5:]) for of in variables if of.startswith(b"RANK=")):
                found[int(entry.name)], parents[int(entry.name)] = number, parent
    return {number: process for process, number in found.items() if parents[process] not in found}


def test_one_command_makes_everything_whatever_happens_to_the_training(project: Path) -> None:
    run(project, "stages.configure", *SMALL)
    jobs = submitted(project)
    assert len(jobs) == 9 and list(jobs)[-1] == "record"
    number = jobs["train@hard"]
    saved = project / JOBS / f".train@hard-{number}.progress"
    for restarts, fault in (("1", signal.SIGKILL), ("2", signal.SIGSTOP)):
        until(lambda: hurry() or state(number) in ENDED or (saved.exists() and len(ranks(number)) == 4), 1200)
        os.kill(ranks(number)[3], fault)
        until(lambda restarts=restarts: shown(number, "Restarts") == restarts)
    assert shown(jobs["teacher@regnety_digits"], "NodeList") == "n[1-2]"
    # One node in place of two: the user cancels, edits cluster.yaml, and submits again.
    two.asked("scancel", *jobs.values())
    until(lambda: not two.asked("squeue", "-h"))
    settings = yaml.safe_load((project / "cluster.yaml").read_text())
    settings["train"]["nodes"] = 1
    (project / "cluster.yaml").write_text(yaml.safe_dump(settings))
    jobs = submitted(project)
    assert list(jobs) == ["train@hard", "evaluate@hard", "report", "record"]
    until(lambda: hurry() or not two.asked("squeue", "-h"), 1200)
    for name, number in jobs.items():
        assert state(number) == "COMPLETED", f"{name} {state(number)}\n{logs(project, name)}"
    assert shown(jobs["train@hard"], "NodeList") in ("n1", "n2")
    assert re.search(r"hard: goes on from step [1-9]\d* of \d+", logs(project, f"train@hard-{jobs['train@hard']}"))
    assert json.loads((project / "work/report/summary.json").read_text())["students"]
    made = set(yaml.safe_load((project / "dvc.lock").read_text())["stages"])
    assert {"index", "shard", "precompute@digits", *jobs} - {"record"} <= made
    assert "nothing was submitted" in run(project, "stages.submit")
