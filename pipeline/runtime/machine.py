"""Where a stage runs: ranks, device, cores, work pool, stop signals, all from the environment.

torch is imported where it is used, so that stages that need no model start without it.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from pipeline.runtime.control_groups import ROOT, cpu_quota
from pipeline.runtime.errors import PipelineError, RetryError, UsageError, first_line
from pipeline.runtime.ranks import Ranks
from pipeline.runtime.system_errors import explain
from pipeline.runtime.text import clipped, whole_number
from pipeline.runtime.work import POOL

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_MOST_RANKS = 1_000_000
_MOST_WORKERS = 4096
_MOST_SECONDS = 30 * 24 * 3600  # a month; far larger numbers overflow in torch's clocks


def _whole(variable: str, default: int, least: int, most: int, note: str = "") -> int:
    """The whole number in an environment variable. Raises UsageError for anything else, such as text, -1 or 30 digits."""
    value = os.environ.get(variable) or str(default)
    number = whole_number(value)
    if number is None or not least <= number <= most:
        found = clipped(repr(value), 60)
        raise UsageError(f"{variable}: expected a whole number from {least} to {most}{note}, found {found}")
    return number


def require_linux() -> None:
    """Raises UsageError where views can't be shared between processes: on macOS, Windows, with a Python for an old glibc."""
    if not hasattr(os, "memfd_create"):
        raise UsageError(
            f"found {platform.system()} and a Python without os.memfd_create; use Linux (WSL 2 on Windows, a container on "
            f"macOS) and a Python made for glibc 2.27 or newer"
        )


def rank() -> int:
    """This process's rank: RANK, as torchrun sets it, else 0. Raises UsageError for one outside WORLD_SIZE."""
    ranks = world_size()
    return _whole("RANK", 0, 0, ranks - 1, f" (WORLD_SIZE is {ranks})")


def world_size() -> int:
    """How many ranks there are: WORLD_SIZE, as torchrun sets it, else 1."""
    return _whole("WORLD_SIZE", 1, 1, _MOST_RANKS)


def device() -> torch.device:
    """``cuda:LOCAL_RANK`` if there is a GPU, else the CPU; DISTIL_DEVICE overrides."""
    import torch

    name = os.environ.get("DISTIL_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    own = torch._C._get_privateuse1_backend_name()  # a backend that registered itself, as that of the tests
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", own):
        raise UsageError(f"DISTIL_DEVICE: expected cpu, cuda or cuda:N, found {clipped(repr(name), 60)}")
    if found.type == "cuda":
        # The number is taken from the text: torch keeps 8 bits of it, so cuda:300 would be cuda:44.
        index = _whole("LOCAL_RANK", 0, 0, _MOST_RANKS) if found.index is None else int(name.partition(":")[2])
        if index >= torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise UsageError(f"device cuda:{index}: this machine has {there} GPUs; correct DISTIL_DEVICE")
        found = torch.device("cuda", index)
    return found


def device_name() -> str:
    """The device for a log: "cpu", or "cuda:0 (NVIDIA H100)"."""
    import torch

    found = device()
    return f"{found} ({torch.cuda.get_device_name(found)})" if found.type == "cuda" else str(found)


def cores(root: Path = ROOT) -> int:
    """Cores that this rank may use: those that the process may run on, at most its control groups' quota of CPU time (part of
    a core counts as one), shared out among the node's ranks. ``root``: where /proc and /sys are."""
    there = min(len(os.sched_getaffinity(0)), cpu_quota(root))
    return max(1, math.ceil(there) // local_ranks())


def local_ranks() -> int:
    """Ranks on this node: LOCAL_WORLD_SIZE, as torchrun sets it, else 1."""
    return _whole("LOCAL_WORLD_SIZE", 1, 1, _MOST_RANKS)


def workers() -> int:
    """Loader processes for this rank: DISTIL_WORKERS, else all of its cores but one."""
    return _whole("DISTIL_WORKERS", max(1, cores() - 1), 0, _MOST_WORKERS)


def pool_root() -> Path:
    """Root of the work pool, shared by clones and cluster jobs: DISTIL_POOL, else ``work/pool``."""
    return home_expanded("DISTIL_POOL", os.environ.get("DISTIL_POOL") or POOL)


def home_expanded(what: str, path: str | Path) -> Path:
    """``path`` with a leading ``~`` as the home directory; a shell doesn't expand it after a "=" or in quotes. Raises
    UsageError, naming ``what`` the path is for, where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{what}: no home directory is known for {str(path)!r}; write the path in full") from None


def patience() -> int:
    """Seconds of silence after which another rank or a loader process counts as lost: DISTIL_TIMEOUT, else 600."""
    return _whole("DISTIL_TIMEOUT", 600, 1, _MOST_SECONDS)


def from_all_ranks(value: T) -> list[T]:
    """Every rank's ``value``, in the order of the ranks."""
    import torch

    found = [value] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(found, value)
    return found


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of every rank's ``value``, which lies on the rank's device."""
    import torch

    total = value.clone()
    if world_size() > 1:
        torch.distributed.all_reduce(total)
    return total


def median_seconds(
    call: Callable[[], object], device: torch.device | None = None, rounds: int = 5, warm: int = 1
) -> float:
    """The median of ``round_seconds``."""
    return statistics.median(round_seconds(call, device, rounds, warm))


def round_seconds(
    call: Callable[[], object], device: torch.device | None = None, rounds: int = 5, warm: int = 1
) -> list[float]:
    """Seconds of one ``call`` in each of ``rounds`` after ``warm`` ones; waits for what it left on ``device``, if that is a
    GPU."""
    import torch

    times = []
    for _ in range(warm + rounds):
        start = time.perf_counter()
        call()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return times[warm:]


@contextmanager
def distributed() -> Iterator[None]:
    """Joins the process group that torchrun's variables describe; nothing for a single process.

    A rank that is lost or hangs ends the others after DISTIL_TIMEOUT seconds (default 600) with RetryError, which names it;
    a rank that refuses ends them with its own refusal.
    """
    import torch

    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())  # the generator whose state a checkpoint holds is the current device's
    if world_size() == 1:
        yield
        return
    rank()  # refused here with the variable's name, before torch refuses it; so is the port
    _whole("MASTER_PORT", 29500, 1, 65535)
    timeout = timedelta(seconds=patience())
    try:
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    except ValueError as error:  # MASTER_ADDR, MASTER_PORT or a rank is missing
        raise UsageError(f"WORLD_SIZE is {world_size()}, but {first_line(error)}; start it with torchrun") from None
    except torch.distributed.DistError as error:
        raise RetryError(f"the {world_size()} ranks did not find each other: {first_line(error)}") from None
    # All ranks leave the group together only if the run ended well.
    ranks = Ranks(rank(), world_size())
    try:
        yield
    except PipelineError as error:
        ranks.refused(error)
        raise
    except OSError as error:
        if refusal := explain(error, {}):
            ranks.refused(refusal)
        raise
    except RuntimeError as error:
        end = ranks.explain(error)
        if end is None:
            raise
        raise end from None
    torch.distributed.destroy_process_group()


GRACE = 20.0  # seconds: Slurm and torchrun kill 30 s after the signal


class StopSignal:
    """Notes SIGTERM, SIGUSR1 (Slurm's warning before preemption) and SIGHUP (unless nohup ignores it), so that work can stop
    at a safe boundary."""

    def __init__(self) -> None:
        self.name, self.since = "", math.inf
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name, self.since = signal.Signals(number).name, min(self.since, time.monotonic())

    def waited(self) -> float:
        """Seconds since the first signal; negative before it."""
        return time.monotonic() - self.since

    def __bool__(self) -> bool:
        return bool(self.name)


def stop_signal() -> StopSignal | None:
    """The StopSignal that notes this process's signals. Looked up here, because signals belong to the process."""
    handler = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return handler if isinstance(handler, StopSignal) else None
