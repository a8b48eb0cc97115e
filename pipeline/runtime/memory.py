"""How much memory this rank may still take: what the machine has, and what its control groups allow; and where it lacks."""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime import units
from pipeline.runtime.control_groups import groups
from pipeline.runtime.errors import RetryError, first_line
from pipeline.runtime.machine import local_ranks
from pipeline.runtime.text import clipped

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_LACK = re.compile(
    r"out of memory|can(no|')t allocate memory|alloc[_ ]failed|bad[_ ]alloc", re.I
)  # torch on CPUs, CUDA's libraries


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


@contextmanager
def enough_memory(**sizes: int) -> Iterator[None]:
    """Turns a lack of memory, the host's or a GPU's, into RetryError that says what is free. ``sizes``: the keys that decide
    how much is needed, with their values."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_lack(error):
            raise
        keys = ", ".join(f"{key} = {value}" for key, value in sizes.items() if value)
        less = f"lower what decides the need ({keys})" if keys else "give it less to do at once"
        raise RetryError(
            f"out of memory ({clipped(first_line(error), 160)}); {_free()}; nothing saved is lost: run the same command again "
            f"where more is free, or {less}"
        ) from None


def _is_lack(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or bool(_LACK.search(str(error)))


def _free() -> str:
    torch, here = sys.modules.get("torch"), f"{units.size(free_memory())} of memory are free"
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return here
    free, total = torch.cuda.mem_get_info()
    return f"{here}, {units.size(free)} of {units.size(total)} on the GPU"
