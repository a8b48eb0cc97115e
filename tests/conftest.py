"""Tests run on the CPU, also beside a GPU, and on one thread per process: two processes of one thread each beat one of
two on small models. DISTIL_DEVICE=cuda tries a GPU; tests that compare trainings to the last bit may fail there."""

import os

os.environ.setdefault("DISTIL_DEVICE", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal

import pytest
import torch

torch.set_num_threads(1)
_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}


@pytest.fixture(autouse=True)
def _signals_as_at_the_start() -> None:
    """A stage notes SIGTERM until its process ends; a child that a later test forks must still die of it."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


_WAIT_LONG = ("cluster/test_chain.py", "cluster/test_faults.py")  # for Slurm, mostly


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait long come first, each file at the beginning of another process's share, so that no process ends with one
    of them."""
    share = -(-len(items) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    for number, name in enumerate(_WAIT_LONG):
        first = [item for item in items if f"{name}::" in item.nodeid]
        rest = [item for item in items if item not in first]
        items[:] = rest[: number * share] + first + rest[number * share :]
