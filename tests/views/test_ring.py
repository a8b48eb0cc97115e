"""The ring of visit slots is as large as memory allows, is refused before any work, and reaches any kind of process."""

import multiprocessing
from pathlib import Path

import pytest

from pipeline.runtime.errors import UsageError
from pipeline.runtime.memory import free_memory
from pipeline.views.ring import Ring, RingSize, ring_size
from tests.support.world import World, make_world

GB = 1 << 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


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


def test_with_little_memory_fewer_are_drawn_ahead_and_too_little_is_refused_with_the_number(world: World) -> None:
    def size(visits: float, workers: int = 4) -> RingSize:
        return ring_size(
            world.shards, world.recipe, 3, workers, held=2, ahead=3, free=int(visits * whole.slot / 0.8) + 9
        )

    whole = ring_size(world.shards, world.recipe, 3, 4, held=2, ahead=3)
    assert (whole.slots, whole.short) == (14, False)
    found = [(made.workers, made.ahead, made.slots) for made in map(size, (14, 13.9, 10, 9.9, 6, 5.9, 3))]
    assert found == [(4, 3, 14), (4, 2, 10), (4, 2, 10), (4, 1, 6), (4, 1, 6), (3, 1, 5), (1, 1, 3)]
    assert "memory is short, 14 visits would keep the workers busier" in str(size(6))
    with pytest.raises(
        UsageError, match=r"3 visits of 373 kB \(1\.12 MB\) must fit into 80 % of the memory that is free"
    ):
        size(2.9)
    assert size(2, workers=0).slots == 2
    with pytest.raises(UsageError, match=r"2 visits of"):
        size(1.9, workers=0)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_process_of_any_kind_writes_into_the_same_memory(method: str) -> None:
    ring = Ring(RingSize(1, 1, 1, pixels=2 * 3 * 16, extra=100, wished=2))
    process = multiprocessing.get_context(method).Process(target=ring.write, args=(1, b"behind"))
    process.start()
    process.join()
    assert ring.read(1, 6) == b"behind" and ring.read(0, 6) == bytes(6)
    ring.pixels(1, 1, 2, 4)[0, 1] = 7
    assert ring.pixels(1, 1, 2, 4).sum() == 7 * 48 and ring.read(1, 6) == b"behind"


def test_a_slot_is_never_given_twice_nor_overrun() -> None:
    ring = Ring(RingSize(1, 1, 1, pixels=4096, extra=4096, wished=2))
    assert {ring.take(), ring.take()} == {0, 1}
    with pytest.raises(AssertionError):
        ring.take()
    ring.free(1)
    assert ring.take() == 1
    with pytest.raises(ValueError, match="4097 bytes beside a visit's pixels, room for 4096"):
        ring.write(0, b"0" * 4097)
