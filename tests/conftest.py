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
