"""The verdict of bench.measure.cores names what is slow, and only that."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.measure.cores import Cost, throttled, verdict

GOOD = Cost(1, rate=850, microseconds=1150, kernel=10, faults=1, switches=0.01, throttled=0, steal=0)


@pytest.mark.parametrize(
    ("alone", "together", "fresh", "expected"),
    [
        ({}, {}, {}, "nothing: 8 processes draw 6800 views/s"),
        ({"rate": 109, "microseconds": 9000}, {"rate": 109, "microseconds": 9000}, {"microseconds": 9000}, "even alone"),
        ({}, {"rate": 420, "microseconds": 2300}, {"microseconds": 2300}, "grows 2.0 times from 1 to 8 processes"),
        ({}, {"rate": 205, "throttled": 30}, {}, "4.2 times as long by the clock as by the CPU: others have the CPUs (a quota"),
        ({}, {"kernel": 400}, {}, "more than a fifth of the CPU time is the kernel's"),
        ({}, {}, {"microseconds": 3000}, "fresh memory costs 2.6 times as much"),
    ],
)  # fmt: skip
def test_the_verdict_names_the_one_thing_that_is_slow(
    alone: dict[str, float], together: dict[str, float], fresh: dict[str, float], expected: str
) -> None:
    many = replace(GOOD, processes=8)
    found = verdict([replace(GOOD, **alone), replace(many, **together)], replace(many, **fresh), [])
    assert len(found) == 1 and expected in found[0]


def test_a_slow_library_is_the_reason_for_slow_views() -> None:
    slow = replace(GOOD, rate=70, microseconds=14_000)
    many = replace(slow, processes=8)
    assert verdict([slow, many], many, ["google_crc32c runs in pure Python"]) == ["google_crc32c runs in pure Python"]


@pytest.mark.parametrize(
    ("group", "stat", "seconds"),
    [
        ("0::/job", "usage_usec 9\nthrottled_usec 1500000\n", 1.5),
        ("3:cpu,cpuacct:/job", "nr_periods 9\nthrottled_time 2500000000\n", 2.5),
    ],
)
def test_throttled_seconds_are_added_up(tmp_path: Path, group: str, stat: str, seconds: float) -> None:
    folder = tmp_path / "sys/fs/cgroup" / ("cpu/job" if "cpu" in group else "job")
    for path, text in ((tmp_path / "proc/self/cgroup", group), (folder / "cpu.stat", stat)):
        path.parent.mkdir(parents=True)
        path.write_text(f"{text}\n")
    assert throttled(tmp_path) == seconds
