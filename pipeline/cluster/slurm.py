"""What Slurm says: its commands, asked with a limit of time, and their answers, none of which is believed unread."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator

from pipeline.runtime.errors import RetryError, UsageError
from pipeline.runtime.machine import patience
from pipeline.runtime.text import clipped, printable

_LIMIT = 60  # seconds in which a busy controller answers


def ask(*command: str, text: str | None = None, limit: int = _LIMIT) -> str:
    """What a command of Slurm prints, given ``text``. Raises UsageError with its own words where it refuses, RetryError
    where it does not answer."""
    seconds = min(limit, patience())
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, errors="replace", timeout=seconds)
    except FileNotFoundError:
        raise UsageError(
            f"no Slurm on this machine ({command[0]} is not on PATH); go to a login node, or run here: dvc repro"
        ) from None
    except subprocess.TimeoutExpired:
        raise RetryError(
            f"{command[0]}: no answer in {seconds} s; run the same command when Slurm answers again"
        ) from None
    if done.returncode:
        said = re.sub(r"^\w+: (error: )?", "", done.stderr.strip(), flags=re.M) or f"exit code {done.returncode}"
        raise UsageError(f"{command[0]}: {clipped(printable(' '.join(said.split())), 300)}")
    return done.stdout


def rows(answer: str, form: str, command: str) -> Iterator[re.Match[str]]:
    """The lines of an answer, each of which has this form. Raises UsageError for another."""
    for line in filter(str.strip, answer.splitlines()):
        found = re.fullmatch(form, line.strip())
        if found is None:
            raise UsageError(f"{command}: printed {clipped(repr(line), 80)}, which is not its format; nothing was done")
        yield found


def queue(limit: int = _LIMIT) -> dict[str, tuple[str, str]]:
    """The caller's jobs that have not ended, by their comment: (id, state). An array has one id."""
    answer = ask("squeue", "-h", "-u", getpass.getuser(), "-o", "%F|%T|%k", limit=limit)
    return {found[3]: (found[1], found[2]) for found in rows(answer, r"(\d+)\|([A-Z_]+)\|(.*)", "squeue")}


def ended(ids: Iterable[str], limit: int) -> dict[str, str]:
    """How jobs ended, by id, as far as Slurm keeps accounts; of an array a task's end that is not COMPLETED, if there is one."""
    if shutil.which("sacct") is None or not (asked := ",".join(ids)):
        return {}
    try:
        answer = ask("sacct", "-nXP", "-j", asked, "-o", "JobID,State", limit=limit)
        found = [(of[1], of[2]) for of in rows(answer, r"(\d+)\S*\|([A-Z_]+).*", "sacct")]
    except (UsageError, RetryError):  # the cluster keeps none
        return {}
    return dict(sorted(found, key=lambda of: of[1] != "COMPLETED"))


def limits() -> dict[str, float]:
    """Every partition's longest time in seconds."""
    answer = ask("sinfo", "-h", "-a", "-o", "%R|%l")
    return {found[1]: seconds(found[2]) for found in rows(answer, r"(\S+)\|([\w:.-]+)", "sinfo")}


def seconds(text: str) -> float:
    """Slurm's times: ``infinite``, ``30:00``, ``1-00:00:00``. Raises UsageError for another text."""
    if text in ("infinite", "UNLIMITED", "n/a"):
        return float("inf")
    found = re.fullmatch(r"(?:(\d+)-)?((?:\d+:){0,2}\d+)", text)
    if found is None:
        raise UsageError(f"sinfo: printed the time {clipped(repr(text), 40)}, which is not its format")
    parts = [int(part) for part in found[2].split(":")]
    parts = [*parts, 0, 0][:3] if found[1] else [0] * (3 - len(parts)) + parts
    return int(found[1] or 0) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def accounts() -> set[str] | None:
    """The accounts that the caller may charge; None where Slurm keeps no accounts."""
    if shutil.which("sacctmgr") is None:
        return None
    try:
        answer = ask("sacctmgr", "-nP", "list", "associations", f"user={getpass.getuser()}", "format=account")
    except UsageError:  # the cluster keeps none, or hides them
        return None
    return {line.strip() for line in answer.splitlines() if line.strip()} or None


def submit(script: str, dependency: str) -> str:
    """Submits a job and says its id. Raises UsageError for an answer that is none."""
    waits = [f"--dependency={dependency}"] if dependency else []
    found = list(rows(ask("sbatch", "--parsable", *waits, text=script), r"(\d+)(;.*)?", "sbatch"))
    if len(found) != 1:
        raise UsageError("sbatch: printed no job id; look with squeue --me whether it took the job")
    return found[0][1]
