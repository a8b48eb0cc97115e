"""What a container leaves of the machine's CPUs: quotas of version 1 and 2, of the group and of those above it."""

import math
import os
from pathlib import Path

import pytest

from pipeline.runtime.control_groups import cpu_quota
from pipeline.runtime.machine import cores

HERE = {"proc/self/cgroup": "0::/pod/job\n"}
FIRST = {"proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/job\n0::/\n"}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),  # no groups at all
        (HERE, math.inf),
        (HERE | {"sys/fs/cgroup/pod/job/cpu.max": "max 100000\n"}, math.inf),
        (HERE | {"sys/fs/cgroup/pod/job/cpu.max": "250000 100000\n"}, 2.5),
        # a quota on the pod holds for the job inside it
        (HERE | {"sys/fs/cgroup/pod/job/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "200000 100000"}, 2.0),
        (HERE | {"sys/fs/cgroup/pod/job/cpu.max": "100000 100000", "sys/fs/cgroup/pod/cpu.max": "200000 100000"}, 1.0),
        # in a container the path is the host's, and only the mount itself is there
        (HERE | {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4.0),
        (FIRST | {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000"},
         math.inf),
        (FIRST | {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "50000"},
         3.0),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_of_the_group_and_of_those_above_it(
    tmp_path: Path, files: dict[str, str], expected: float
) -> None:
    assert cpu_quota(tree(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("quota", "ranks", "expected"),
    [("max", 1, 16), ("200000", 1, 2), ("250000", 1, 3), ("50000", 1, 1), ("800000", 4, 2), ("200000", 4, 1)],
)
def test_cores_are_those_of_affinity_and_quota_shared_among_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, ranks: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert cores(tree(tmp_path, HERE | {"sys/fs/cgroup/pod/job/cpu.max": f"{quota} 100000"})) == expected
