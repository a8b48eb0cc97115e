"""Control groups: limits that a container, a cloud's pod or Slurm sets for this process, in version 1 or 2."""

import math
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # where /proc and /sys are


def groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """The folders of this process's groups of ``controller`` ("cpu", "memory") and of all groups above them, since a limit
    holds for all below it. In a container the path may be one of the host's, of which only the mount itself is seen."""
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        inside = Path(path.lstrip("/"))
        yield from (mount / part for part in (inside, *inside.parents))


def cpu_quota(root: Path = ROOT) -> float:
    """CPUs whose time this process may use, the least of its groups' quotas; infinite where there is none."""
    return min((quota for folder in groups("cpu", root) for quota in _quota(folder)), default=math.inf)


def _quota(folder: Path) -> Iterator[float]:
    """Of one group: time over period, both in microseconds."""
    first = " ".join(text_of(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    for text in (text_of(folder / "cpu.max"), first):
        time, _, period = text.partition(" ")
        if time.isdigit():  # not "max", -1 or nothing
            yield int(time) / int(period)


def text_of(path: Path) -> str:
    """A file's content, "" where there is no such file: of the other version, or of a group that is out of sight."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
