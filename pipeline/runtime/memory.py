"""How much memory this rank may still take: what the machine has, and what its control groups allow."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.control_groups import groups
from pipeline.runtime.machine import local_ranks

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this rank may still take: the least of MemAvailable and of what each control group above this process
    leaves (version 1 or 2; its page cache can be dropped and counts as free), shared out among the node's ranks.

    ``root``: where /proc and /sys are.
    """
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    free = [1024 * int(lines["MemAvailable"].split()[0]), *_left_by_groups(root)]
    return max(0, min(free)) // local_ranks()


def _left_by_groups(root: Path) -> Iterator[int]:
    for folder in groups("memory", root):
        for limit_name, used_name, dropped in (_V1, _V2):
            try:
                limit = (folder / limit_name).read_text().strip()
                used = int((folder / used_name).read_text())
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except OSError:  # the other version's names, or a group that this process may not see
                continue
            if limit != "max":
                yield int(limit) - used + sum(int(counts.get(name, 0)) for name in dropped)
