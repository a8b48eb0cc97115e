"""The ring of visit slots is as large as memory allows, is refused before any work, and reaches any kind of process."""

import multiprocessing

import pytest

from pipeline.runtime.errors import UsageError
from pipeline.views.ring import Ring, RingSize, ring_size
from tests.support.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


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
