"""The checks of ``doctor`` that look at a machine and its file systems, whatever the project."""

import fcntl
import math
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pipeline.base import engine
from pipeline.runtime.control_groups import cpu_quota
from pipeline.runtime.libraries import installed
from pipeline.runtime.memory import free_memory
from pipeline.runtime.text import clipped, printable
from pipeline.runtime.units import duration, size

State = Literal["ok", "note", "stop"]
_NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "fuse.sshfs", "9p")
_LEAST_SHM = 1 << 30
_SLOW_SYNC = 0.05  # seconds; a commit of a part waits for a few of them


def gpu() -> Iterator[tuple[State, str]]:
    if shutil.which("nvidia-smi") is None:
        yield "note", "none (no nvidia-smi): everything is computed on the CPU"
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=20)
    except subprocess.TimeoutExpired:
        yield "stop", "nvidia-smi gives no answer in 20 s: the driver hangs; restart the machine or use another"
        return
    found = [
        re.fullmatch(r"(.+), (\d+|\[N/A\]), (\d+|\[N/A\]), ([\d.]+)", line.strip()) for line in done.stdout.splitlines()
    ]
    if done.returncode or not found or not all(found):
        said = " ".join((done.stderr or done.stdout).split())
        yield "stop", f"nvidia-smi: {clipped(printable(said), 150) or 'printed nothing'}"
        return
    for of in filter(None, found):
        if "[N/A]" in (of[2], of[3]):
            yield "ok", f"{of[1]}, which shares the machine's memory, driver {of[4]}"
            continue
        free, total = int(of[2]) << 20, int(of[3]) << 20
        state: State = "ok" if free > total // 2 else "note"
        yield state, f"{of[1]}: {size(free)} of {size(total)} free, driver {of[4]}"
    if "+cpu" in installed(["torch"])["torch"]:
        yield "stop", "this torch was built without CUDA; install the one of uv.lock: uv sync --frozen"


def cores() -> Iterator[tuple[State, str]]:
    allowed, quota, online = len(os.sched_getaffinity(0)), cpu_quota(), os.cpu_count() or 1
    text = f"{min(allowed, math.ceil(quota)) if quota < allowed else allowed} of {online}"
    if quota < allowed:
        text += f": a quota allows the time of {quota:g}; python -m bench.measure.cores shows what they draw"
    yield ("note" if quota < allowed or allowed < 4 else "ok"), text


def memory() -> Iterator[tuple[State, str]]:
    yield "ok", f"{size(free_memory())} free"
    left = shutil.disk_usage("/dev/shm").free
    wanted = f"; views that workers draw lie there: start the container with --shm-size={_LEAST_SHM >> 20}m or more"
    yield (
        ("ok", f"/dev/shm: {size(left)} free")
        if left >= _LEAST_SHM
        else ("note", f"/dev/shm: {size(left)} free{wanted}")
    )


def kernels() -> Iterator[tuple[State, str]]:
    if not engine.kernels():
        yield "note", "views are drawn by Pillow, which takes three times as long (DISTIL_ENGINE, or no numba)"
        return
    from pipeline.base.compiled import cache_folder

    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder())
    kept = sum(1 for path in folder.rglob("*.nbi"))
    yield "ok", f"{kept} compiled functions in {folder}" if kept else f"compiled at first use, in {folder}"


def pool(pool: Path) -> Iterator[tuple[State, str]]:
    """What commits and locks ask of a file system, tried in the pool, or in the first folder above that is there."""
    folder = next(path for path in (pool, *pool.parents) if path.exists())
    kind = file_system(folder)
    probe = folder / f".doctor.{uuid.uuid4().hex}"
    other = probe.with_name(f"{probe.name}.linked")
    try:
        start = time.perf_counter()
        with probe.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            sync = time.perf_counter() - start
            apart = abs(os.fstat(file.fileno()).st_mtime - time.time())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                yield "note", f"no locks ({error.strerror}): see that no two jobs train the same student"
        yield from _links(probe, other)
        probe.replace(other)
    except OSError as error:
        yield "stop", f"{folder}: can't be written ({error.strerror}); set DISTIL_POOL to a folder of yours"
        return
    finally:
        for path in (probe, other):
            with suppress(OSError):
                path.unlink(missing_ok=True)
    yield "ok", f"{pool} on {kind}" + (", a network file system, as several nodes need" if kind in _NETWORK else "")
    yield ("note" if sync > _SLOW_SYNC else "ok"), f"a write reaches the disk in {duration(sync)}"
    if apart > 30:
        yield "note", f"its clock is {duration(apart)} off this machine's: files seem older or newer than they are"


def _links(probe: Path, other: Path) -> Iterator[tuple[State, str]]:
    """Commits need a link that fails where the name is taken."""
    try:
        other.hardlink_to(probe)
        with suppress(FileExistsError):
            other.hardlink_to(probe)
            yield "stop", f"{other.parent}: a link replaces a file, so jobs can lose a part; set DISTIL_POOL elsewhere"
    except OSError as error:
        yield (
            "stop",
            f"{other.parent}: no hard links ({error.strerror}), which commits need; set DISTIL_POOL elsewhere",
        )


def file_system(folder: Path) -> str:
    """Its type, as /proc/mounts names it."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounts = {Path(of[1].encode().decode("unicode_escape")): of[2] for of in lines}
    here = folder.resolve()
    return next(mounts[path] for path in (here, *here.parents) if path in mounts)
