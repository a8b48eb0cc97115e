"""Where a stage runs: ranks, device, cores, work pool, stop signals, all from the environment.

torch is imported where it is used, so that stages that need no model start without it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.runtime.errors import RetryError, UsageError, first_line

if TYPE_CHECKING:
    import torch


def rank() -> int:
    """This process's rank: RANK, as torchrun sets it, else 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


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
        raise UsageError(f"DISTIL_DEVICE: expected cpu, cuda or cuda:N, found {name!r}")
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if found.type == "cuda" and found.index >= torch.cuda.device_count():
        raise UsageError(f"device {found}: this machine has {torch.cuda.device_count()} GPUs; correct DISTIL_DEVICE")
    return found


def device_name() -> str:
    """The device for a log: "cpu", or "cuda:0 (NVIDIA H100)"."""
    import torch

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


@contextmanager
def distributed() -> Iterator[None]:
    """Joins the process group that torchrun's variables describe; nothing for a single process.

    A rank that is lost or hangs ends the others after DISTIL_TIMEOUT seconds (default 600).
    """
    import torch

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
    # Only a run that ended well leaves the group: a rank that refuses would wait here for ranks that wait for it. When
    # its process ends, the others fail at their next exchange.
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
