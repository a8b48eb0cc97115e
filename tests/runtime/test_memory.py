"""Memory that is free: what machine and control groups leave; and the sentence where it lacks."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.runtime.errors import RetryError
from pipeline.runtime.memory import enough_memory, free_memory
from pipeline.runtime.stage import stage

GB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {8 << 20} kB\n"}


STAT = f"anon 1\ninactive_file {GB}\nactive_file {GB}\ntotal_inactive_file {GB}\ntotal_active_file {GB}\n"


def group(folder: str, limit: str, used: int, version: int) -> dict[str, str]:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    return {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{used}\n", f"{folder}/memory.stat": STAT}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),  # no groups at all
        ({"proc/self/cgroup": "0::/job\n", **group("sys/fs/cgroup/job", "max", GB, 2)}, 8),
        ({"proc/self/cgroup": "0::/job\n", **group("sys/fs/cgroup/job", str(6 * GB), 5 * GB, 2)}, 3),
        # a limit on the job holds for the step inside it
        ({"proc/self/cgroup": "0::/job/step\n", **group("sys/fs/cgroup/job", str(4 * GB), 5 * GB, 2),
          **group("sys/fs/cgroup/job/step", "max", GB, 2)}, 1),
        ({"proc/self/cgroup": "9:cpu:/a\n4:memory:/job\n0::/\n",
          **group("sys/fs/cgroup/memory/job", str(5 * GB), 5 * GB, 1),
          **group("sys/fs/cgroup/memory", str((1 << 63) - 4096), 30 * GB, 1)}, 2),
        # in a container the path is the host's, and only the mount itself is there
        ({"proc/self/cgroup": "4:memory:/docker/123\n", **group("sys/fs/cgroup/memory", str(5 * GB), 6 * GB, 1)}, 1),
        ({"proc/self/cgroup": "0::/job\n", **group("sys/fs/cgroup/job", str(GB), 9 * GB, 2)}, 0),
    ],
)  # fmt: skip
def test_free_memory_is_what_machine_and_control_groups_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    root = write(tmp_path, MACHINE | files)
    assert free_memory(root) == expected * GB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(root) == expected * GB // 4
    assert 0 < free_memory() < 1 << 50  # of this very machine


def refused_by_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB")


def refused_by_the_system() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    "greedy",
    [
        lambda: torch.empty(1 << 60),
        lambda: np.empty(1 << 45),
        lambda: bytearray(1 << 60),
        refused_by_a_gpu,
        refused_by_the_system,
    ],
)
def test_a_lack_of_memory_of_every_kind_is_one_sentence_and_75(
    greedy: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(RetryError, match=r"B of memory are free; nothing saved is lost: .* \(lanes = 4\)$"),
        enough_memory(lanes=4),
    ):
        greedy()
    with pytest.raises(SystemExit) as left:
        stage(greedy)()
    said = capsys.readouterr().err
    assert (
        left.value.code == 75 and said.startswith("error: out of memory (") and "or give it less to do at once" in said
    )


def test_other_errors_are_no_lack_of_memory() -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.EIO, "Input/output error")):
        with pytest.raises(type(error), match=r"differ|Input"), enough_memory():
            raise error
