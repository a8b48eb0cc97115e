"""Where and how the program runs: errors and exit codes, ranks, device, progress, stop signals (layer L0).

Nothing here may change a byte of any output.
"""

import errno
import functools
import gc
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

P = ParamSpec("P")
T = TypeVar("T")


class PipelineError(Exception):
    """A refusal with an exit code; its text says what was expected, what was found and what to do."""

    exit_code = 1


class UsageError(PipelineError):
    """Usage or configuration (exit 2)."""

    exit_code = 2


class IntegrityError(PipelineError):
    """Damaged data (exit 3)."""

    exit_code = 3


class IdentityError(PipelineError):
    """Whole data of another identity than the one that is asked for (exit 4)."""

    exit_code = 4


class RetryError(PipelineError):
    """Preempted, disk full: nothing is lost, run the same command again (exit 75)."""

    exit_code = 75


def first_line(error: Exception) -> str:
    """What another library's error says, short enough for a sentence of ours."""
    return (str(error) or type(error).__name__).splitlines()[0]


_MANY_FILES = 65_536
_WRONG_PATH = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)


def stage(command: Callable[P, T]) -> Callable[P, T]:
    """Turns refusals into one clear sentence and their exit code; DVC hides the code, so the last line has it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, cores() // 2))  # the loader's processes need the others
        _allow_many_files()
        try:
            return command(*args, **kwargs)
        except PipelineError as error:
            text, code = str(error), error.exit_code
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                text, code = f"no space left: {error}; free some space, then run the same command", RetryError.exit_code
            elif error.errno in _WRONG_PATH and error.filename is not None:
                text = f"{error.filename}: {error.strerror}; correct the path or its permissions"
                code = UsageError.exit_code
            else:
                raise
        except KeyboardInterrupt:
            text, code = "interrupted; run the same command to go on", 130
        print(f"error: {text}\nexit code {code}", file=sys.stderr, flush=True)
        gc.collect()  # a loader that a dead frame still holds would be waited for at exit
        sys.exit(code)

    return run


def _allow_many_files() -> None:
    """Lifts the limit of open files as far as it goes: each tensor that a loader's process hands over is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def rank() -> int:
    """This process's rank: RANK, as torchrun sets it, else 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> torch.device:
    """``cuda:LOCAL_RANK`` if there is a GPU, else the CPU; DISTIL_DEVICE overrides."""
    name = os.environ.get("DISTIL_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    own = torch._C._get_privateuse1_backend_name()  # a backend that registered itself, as that of the tests
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", own):
        raise UsageError(f"DISTIL_DEVICE: expected cpu, cuda or cuda:N, found {name!r}")
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if found.type == "cuda" and found.index >= torch.cuda.device_count():
        raise UsageError(f"device {found}: this machine has {torch.cuda.device_count()} GPUs; correct DISTIL_DEVICE")
    return found


def device_name() -> str:
    """The device for a log: "cpu", or "cuda:0 (NVIDIA H100)"."""
    found = device()
    return f"{found} ({torch.cuda.get_device_name(found)})" if found.type == "cuda" else str(found)


def cores() -> int:
    """Cores that this rank may use: the process's own, shared out among the node's ranks."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def workers() -> int:
    """Loader processes for this rank: DISTIL_WORKERS, else all of its cores but one."""
    given = os.environ.get("DISTIL_WORKERS")
    if given is not None:
        if not given.isdecimal():
            raise UsageError(f"DISTIL_WORKERS: expected a whole number of at least 0, found {given!r}")
        return int(given)
    return max(1, cores() - 1)


def pool_root() -> Path:
    """Root of the work pool, shared by clones and cluster jobs: DISTIL_POOL, else ``work/pool``."""
    return Path(os.environ.get("DISTIL_POOL") or "work/pool")


def say(text: str) -> None:
    """One line for the user, from rank 0 only."""
    if rank() == 0:
        print(text, flush=True)


@contextmanager
def progress(title: str, total: int, unit: str, every: float = 10.0) -> Iterator[Callable[..., None]]:
    """Yields ``tick(n=1, note="")``: a bar on a terminal, else one plain line every ``every`` seconds with an ETA.

    The ETA comes from the speed measured in this run, so work skipped by a resume does not flatter it. What is done
    within a second, and has no note, needs no line.
    """
    if rank() != 0:
        yield lambda n=1, note="": None
        return
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        more = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, *more, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, note=note)
        return
    started, last, done = time.monotonic(), time.monotonic(), 0

    def tick(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= every or (done == total and (note or now - started >= 1.0)):
            last = now
            speed = done / max(now - started, 1e-9)
            left = (total - done) / max(speed, 1e-9)
            line = f"{title}: {done}/{total} {unit}, {speed:.3g}/s, {left:.0f} s left  {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    yield tick


@contextmanager
def timed(out: Path | None, name: str) -> Iterator[None]:
    """Leaves the seconds that the block took in ``work/seconds/<name>.json``, beside the outputs, for the report.

    Times are of this machine and this run, so they are no output: no stage depends on them.
    """
    start = time.perf_counter()
    yield
    if out is not None and rank() == 0:
        folder = next((parent for parent in out.absolute().parents if parent.name == "work"), out.absolute().parent)
        path = folder / "seconds" / f"{name.replace(':', '-')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"stage": name, "seconds": round(time.perf_counter() - start, 2)}) + "\n")


@contextmanager
def distributed() -> Iterator[None]:
    """Joins the process group that torchrun's variables describe; nothing for a single process.

    A rank that is lost or hangs ends the others after DISTIL_TIMEOUT seconds (default 600).
    """
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())  # the generator whose state a checkpoint holds is the current device's
    if world_size() == 1:
        yield
        return
    seconds = os.environ.get("DISTIL_TIMEOUT", "600")
    if not seconds.isdecimal():
        raise UsageError(f"DISTIL_TIMEOUT: expected whole seconds, found {seconds!r}")
    timeout = timedelta(seconds=int(seconds))
    try:
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    except ValueError as error:  # MASTER_ADDR, MASTER_PORT or a rank is missing
        raise UsageError(f"WORLD_SIZE is {world_size()}, but {first_line(error)}; start it with torchrun") from None
    except torch.distributed.DistError as error:
        raise RetryError(f"the {world_size()} ranks did not find each other: {first_line(error)}") from None
    yield
    # A rank that refuses does not come here: it would wait for the others, and they for it. Its end is theirs.
    torch.distributed.destroy_process_group()


class StopSignal:
    """Notes SIGTERM and SIGUSR1 (Slurm's warning before preemption) so that work stops at a safe boundary."""

    def __init__(self) -> None:
        self.name, self.since = "", math.inf
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name, self.since = signal.Signals(number).name, min(self.since, time.monotonic())

    def waited(self) -> float:
        """Seconds since the first signal; negative before it."""
        return time.monotonic() - self.since

    def __bool__(self) -> bool:
        return bool(self.name)
