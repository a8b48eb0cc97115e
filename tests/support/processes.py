"""Processes of tests that go on from the test's own, which has imported torch; importing it anew takes seconds."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import torch

# Where there is a GPU, torch starts threads for its gradients, and then no fork may compute any.
CONTEXT = get_context("spawn" if torch.cuda.is_available() else "fork")


def started(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that calls ``work``, a function of a module, and ends."""
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process
