"""A two-node Slurm on this machine, from Debian's packages: munge, slurmctld and two slurmd of the caller, in one folder."""

import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
INSTALLED = all(shutil.which(name, path=f"{os.environ.get('PATH')}:/usr/sbin") for name in (*DAEMONS, "sbatch"))
WITHOUT = "Slurm is not installed; .ci/run installs it and fails without"
_CONF = """ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
GresTypes=gpu
KillWait=5
MinJobAge=3600
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=32 RealMemory=64000 Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=32 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=600 PriorityTier=2 PreemptMode=OFF
PartitionName=grace Nodes=n1 MaxTime=60 PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE
PartitionName=nograce Nodes=n1 MaxTime=60 PriorityTier=1 GraceTime=0 PreemptMode=REQUEUE
PartitionName=cancels Nodes=n1 MaxTime=60 PriorityTier=1 GraceTime=0 PreemptMode=CANCEL
PartitionName=urgent Nodes=n1 MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def started(command: list[str], pid: Path) -> int:
    subprocess.run(command, check=True)
    until(lambda: pid.is_file() and pid.read_text().strip())
    return int(pid.read_text())


@contextmanager
def cluster(root: Path) -> Iterator[None]:
    """Sets SLURM_CONF; ends what it started by process id."""
    ids = list[int]()
    (root / "state").mkdir(parents=True)
    (root / "munge.key").write_bytes(os.urandom(1024))
    (root / "munge.key").chmod(0o400)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (root / "slurm.conf").write_text(_CONF.format(root=root, user=user, ports=_free_ports(3)))
    for name in ("gpu0", "gpu1"):
        (root / name).touch()
    (root / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={root}/gpu[0-1]\n")
    before = dict(os.environ)
    os.environ |= {"SLURM_CONF": str(root / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    kept = [f"--{name}={root}/munge.{name}" for name in ("socket",)] + [f"--key-file={root}/munge.key"]
    files = [f"--pid-file={root}/munged.pid", f"--log-file={root}/munged.log", f"--seed-file={root}/munge.seed"]
    try:
        ids.append(started(["munged", "--force", *kept, *files], root / "munged.pid"))
        ids.append(started(["slurmctld", "-c"], root / "slurmctld.pid"))
        ids += [started(["slurmd", "-N", node], root / f"slurmd-{node}.pid") for node in ("n1", "n2")]
        until(lambda: asked("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split() == ["n1", "n2"])
        yield
    finally:
        asked("scancel", "--state=PENDING", "-u", user)
        asked("scancel", "-u", user)
        with suppress(TimeoutError):
            until(lambda: not asked("squeue", "-h"), 60)
        for number in reversed(ids):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        for number in reversed(ids):
            with suppress(TimeoutError):
                until(lambda number=number: not Path(f"/proc/{number}").exists(), 30)
        os.environ.clear()
        os.environ |= before


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def until(true: Callable[[], object], seconds: float = 600) -> None:
    """Waits for an event; ``seconds`` guard against waiting for ever."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for what did not come")
        time.sleep(0.2)


def shown(job: str, field: str) -> str:
    """A field of ``scontrol show job``."""
    words = asked("scontrol", "-o", "show", "job", job).split()
    return next((word.partition("=")[2] for word in words if word.startswith(f"{field}=")), "")


def state(job: str) -> str:
    return shown(job, "JobState")


def hurry() -> None:
    """Lets jobs that wait for their time start in two seconds, as an operator can; within a second of its end a node would refuse
    the same job, whose credential it has revoked."""
    for job in asked("squeue", "-h", "-t", "PD", "-o", "%i %r").splitlines():
        number, _, reason = job.partition(" ")
        if reason == "BeginTime" and _from_now(shown(number, "EligibleTime")) > 3:
            asked("scontrol", "update", f"JobId={number}", "StartTime=now+2")


def _from_now(when: str) -> float:
    try:
        return (datetime.fromisoformat(when) - datetime.now()).total_seconds()
    except ValueError:  # Unknown
        return math.inf
