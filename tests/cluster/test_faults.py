"""What a job does after each fault, on a real Slurm of two nodes: its end, and that no part is lost.

Stand-ins of the stages run in one cluster at once; each row is a job, what is done to it, and the state it ends in.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cluster import slurm, submit
from pipeline.cluster.config import ClusterConfig, JobKind
from pipeline.cluster.script import JOBS, Job, sbatch_text
from pipeline.runtime.code import ROOT
from tests.support import slurm as two
from tests.support.slurm import hurry, shown, state, until

pytestmark = pytest.mark.skipif(not two.INSTALLED, reason=two.WITHOUT)
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} -S {ROOT}/tests/support/stand_in.py "$@"\n')
    (folder / "bin/python").chmod(0o755)
    (folder / JOBS).mkdir(parents=True)
    with two.cluster(folder / "cluster"):
        yield folder


def kind(
    root: Path, partition: str = "main", time: str = "1:00:00", sbatch: tuple[str, ...] = (), **stand_in: object
) -> JobKind:
    setup = [f"export PATH={root}/bin:$PATH", *(f"export {name}={value}" for name, value in stand_in.items())]
    return JobKind(partition=partition, cpus=1, time=time, setup=tuple(setup), sbatch=sbatch)


def job(name: str, after: tuple[tuple[str, str], ...] = (), width: int = 0) -> Job:
    return Job(f"train@{name}", f"train@{name}", "train", "python -m stages.train", f"key of {name}", after, width)


class Row:
    """A job of the matrix; what was ``done`` to it."""

    def __init__(self, root: Path, name: str, **how: object) -> None:
        self.root, self.name = root, name
        self.id = slurm.submit(sbatch_text(job(name), kind(root, **how), root / "pool", root, {}), "")

    @property
    def log(self) -> str:
        path = self.root / JOBS / f"train@{self.name}-{self.id}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    @property
    def parts(self) -> set[str]:
        return {path.name for path in (self.root / "pool/parts" / self.name).glob("*")}

    def at_work(self) -> bool:
        return state(self.id) == "RUNNING" and len(self.parts) >= 1

    def processes(self, what: str) -> list[int]:
        """Those of this job whose command line has ``what``."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if what.encode() in command and f"SLURM_JOB_ID={self.id}".encode() in variables:
                found.append(int(entry.name))
        return found

    def kill(self, what: str) -> None:
        for number in self.processes(what):
            os.kill(number, signal.SIGKILL)


def told(row: Row, number: str) -> None:
    two.asked("scancel", f"--signal={number}", row.id)


def cancelled(row: Row) -> None:
    two.asked("scancel", row.id)


def preempted(row: Row) -> None:
    script = "#!/bin/bash\n#SBATCH --partition=urgent --nodelist=n1 --exclusive\nsleep 3"
    slurm.submit(script, "")


FAULTS: dict[str, tuple[dict[str, object], Callable[[Row], object], str, bool]] = {
    "scancel, obeyed": ({}, cancelled, "CANCELLED", False),
    "scancel, not obeyed": ({"DEAF": 1}, cancelled, "CANCELLED", False),
    "USR1": ({}, lambda row: told(row, "USR1"), "COMPLETED", True),
    "TERM": ({}, lambda row: told(row, "TERM"), "COMPLETED", True),
    "SIGKILL of the step": ({}, lambda row: row.kill("stand_in"), "COMPLETED", True),
    "SIGKILL of the batch script": ({}, lambda row: row.kill("slurm_script"), "FAILED", False),
    "time limit, obeyed": ({"time": "0:03:00", "SECONDS_EACH": 12}, lambda row: None, "COMPLETED", True),
    "time limit, not obeyed": ({"time": "0:01:00", "DEAF": 1, "SECONDS_EACH": 15}, lambda row: None, "TIMEOUT", False),
    "hang": ({"HANG": "hung", "DISTIL_TIMEOUT": 2}, lambda row: None, "COMPLETED", True),
    "exit 1": ({"CODE": 1}, lambda row: None, "FAILED", False),
    "exit 2": ({"CODE": 2}, lambda row: None, "FAILED", False),
    "75 for ever": ({"CODE": 75}, lambda row: None, "FAILED", False),
}
PREEMPTIONS: dict[str, tuple[dict[str, object], str, bool]] = {
    "preempted with grace": ({"partition": "grace"}, "COMPLETED", True),
    "preempted without grace": ({"partition": "nograce"}, "COMPLETED", True),
    "preempted, cancel mode": ({"partition": "cancels"}, "PREEMPTED", False),
}
DOWN = "node down and back"


def down_and_back(row: Row) -> None:
    two.asked("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")
    # while its old steps end, the node refuses the job
    until(lambda: not two.asked("pgrep", "-f", rf"slurmstepd: \[{row.id}\."))
    two.asked("scontrol", "update", "NodeName=n1", "State=RESUME")


def test_each_fault_ends_as_it_should_and_no_part_is_lost(root: Path, capsys: pytest.CaptureFixture) -> None:
    rows, wanted, before = dict[str, Row](), dict[str, tuple[str, bool]](), dict[str, set[str]]()
    for number, (fault, (how, _, end, whole)) in enumerate(FAULTS.items()):
        rows[fault], wanted[fault] = Row(root, f"f{number}", sbatch=("--nodelist=n2",), **how), (end, whole)
    for number, (fault, (how, end, whole)) in enumerate(PREEMPTIONS.items()):
        rows[fault], wanted[fault] = Row(root, f"p{number}", **how), (end, whole)
    for fault in PREEMPTIONS:
        until(lambda row=rows[fault]: row.at_work())
        before[fault] = rows[fault].parts
    preempted(rows[fault])
    for fault, (how, act, *_) in FAULTS.items():
        if "CODE" not in how:
            until(lambda row=rows[fault]: row.at_work())
        before[fault] = rows[fault].parts
        act(rows[fault])
    until(lambda: hurry() or all(state(rows[fault].id) in ENDED for fault in PREEMPTIONS))
    rows[DOWN], wanted[DOWN] = Row(root, "down", sbatch=("--nodelist=n1",)), ("COMPLETED", True)
    until(rows[DOWN].at_work)
    before[DOWN] = rows[DOWN].parts
    down_and_back(rows[DOWN])

    def ended() -> bool:
        hurry()
        return all(state(row.id) in ENDED for row in rows.values())

    until(ended)
    with capsys.disabled():
        print(f"\n{'fault':30}{'parts lost':>11} {'end':12}{'restarts':>9}  hand-work")
        for fault, row in rows.items():
            lost, end = len(before[fault] - row.parts), state(row.id)
            hand = "none" if end == "COMPLETED" or "scancel" in fault or "exit" in fault else "submit again"
            print(f"{fault:30}{lost:>11} {end:12}{shown(row.id, 'Restarts'):>9}  {hand}")
    for fault, row in rows.items():
        assert before[fault] <= row.parts and (state(row.id), len(row.parts) == 8) == wanted[fault], (fault, row.log)
        assert (root / JOBS / f"train@{row.name}.done").is_file() == (state(row.id) == "COMPLETED"), fault
    for fault in ("scancel, obeyed", "scancel, not obeyed", "exit 1", "exit 2"):
        assert shown(rows[fault].id, "Restarts") == "0", rows[fault].log
    assert "three restarts without a new part or checkpoint" in rows["75 for ever"].log
    assert shown(rows["75 for ever"].id, "Restarts") == "3"


def test_a_full_disk_holds_the_job_until_it_is_released(root: Path) -> None:
    full = root / "full"
    full.touch()
    row = Row(root, "full", FULL=full)
    until(lambda: shown(row.id, "Reason").startswith(("JobHeldUser", "job_requeued_in_held")))
    assert f"scontrol release {row.id}" in row.log and state(row.id) in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT")
    full.unlink()
    two.asked("scontrol", "release", row.id)
    until(lambda: hurry() or state(row.id) in ENDED)
    assert state(row.id) == "COMPLETED" and len(row.parts) == 8


def chain(*names: str) -> list[Job]:
    return [job(name, tuple(("afterok", f"train@{other}") for other in names[:i][-1:])) for i, name in enumerate(names)]


def test_two_submissions_at_once_make_one_chain_and_a_cancelled_job_ends_it(root: Path) -> None:
    of = kind(root, SECONDS_EACH=2)
    cluster = ClusterConfig(cpu=of, label=of, train=of, evaluate=of)
    lines: list[list[str]] = []

    def once() -> None:
        lines.append(list(submit.submit(chain("one", "two"), cluster, root / "pool", root)))

    threads = [threading.Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [[line.split()[2] for line in found] for found in lines]
    assert ids[0] == ids[1] and sum("already" in line for found in lines for line in found) == 2
    until(lambda: state(ids[0][0]) == "RUNNING")
    two.asked("scancel", ids[0][0])
    until(lambda: state(ids[0][1]) in ENDED)
    assert [state(number) for number in ids[0]] == ["CANCELLED", "CANCELLED"]
    assert not list((root / JOBS).glob("train@one.done")) and shutil.which("sbatch")


def test_each_task_of_an_array_is_requeued_by_itself(root: Path) -> None:
    """The SLURM_JOB_ID of one task is that of the whole array."""
    script = sbatch_text(job("array", width=3), kind(root, CODE=75), root / "pool", root, {})
    array = slurm.submit(script, "")
    until(lambda: hurry() or not two.asked("squeue", "-h", "-j", array))
    logs = [path.read_text() for path in sorted((root / JOBS).glob(f"train@array-{array}_*.log"))]
    assert len(logs) == 3 and all(log.count("error: as it was told") == 4 for log in logs), logs
