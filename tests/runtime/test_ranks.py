"""When one rank is lost, hangs or refuses, the others end with one sentence that names it and with the right exit code."""

import contextlib
import io
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.machine import distributed
from pipeline.runtime.stage import stage

WORLD = 2


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def refused() -> None:
    raise IntegrityError("shard 000003.tar: its bytes have changed")


def refused_by_the_system() -> None:
    Path("/dev/null/runs").mkdir()


def work(rank: int, port: int, ending: int, end: Callable[[], None], answer: Connection) -> None:
    """Exchanges numbers until rank ``ending`` meets its end; sends the exit code and what was printed."""
    timeout = "3" if end is stopped else "600"
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "DISTIL_TIMEOUT": timeout}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    printed = io.StringIO()

    @stage
    def command() -> None:
        with distributed():
            for step in range(10**9):
                if step == 5 and rank == ending:
                    end()
                torch.distributed.all_reduce(torch.ones(3))

    with contextlib.redirect_stderr(printed):
        try:
            command()
        except SystemExit as left:
            answer.send((left.code, printed.getvalue()))
    sys.stderr = None  # what libraries print when the process is torn down


def ends(ending: int, end: Callable[[], None]) -> dict[int, tuple[int, str]]:
    """What each rank that came to an end of its own said, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, found = get_context("fork"), {}
    pipes = [context.Pipe(duplex=False) for _ in range(WORLD)]
    ranks = [
        context.Process(target=work, args=(rank, port, ending, end, sender)) for rank, (_, sender) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    for rank, (receiver, _) in enumerate(pipes):
        if rank != ending or end in (refused, refused_by_the_system):
            assert receiver.poll(600), f"rank {rank} hangs"
            found[rank] = receiver.recv()
    for process in ranks:
        process.kill()
        process.join()
    return found


@pytest.mark.parametrize(("ending", "end"), [(0, killed), (1, killed), (1, stopped)])
def test_a_lost_rank_is_named_and_the_others_may_try_again(ending: int, end: Callable[[], None]) -> None:
    ((rank, (code, printed)),) = ends(ending, end).items()
    assert code == 75 and "Traceback" not in printed
    lines = printed.strip().splitlines()
    assert len(lines) == 2 and lines[1] == "exit code 75"
    assert lines[0].startswith(f"error: rank {rank} of 2: rank {ending} is lost") and "run the same command" in lines[0]


@pytest.mark.parametrize("ending", [0, 1])
def test_a_rank_that_refuses_ends_the_others_with_its_own_refusal(ending: int) -> None:
    """Else a scheduler would start a damaged run again and again."""
    found = ends(ending, refused)
    assert found[ending] == (3, "error: shard 000003.tar: its bytes have changed\nexit code 3\n")
    code, printed = found[1 - ending]
    assert code == 3 and f"because rank {ending} refused: shard 000003.tar: its bytes have changed" in printed


def test_what_the_system_refuses_to_a_rank_is_no_lost_rank_for_the_others() -> None:
    found = ends(0, refused_by_the_system)
    assert found[0][0] == found[1][0] == 2
    assert "because rank 0 refused: /dev/null/runs: Not a directory" in found[1][1]
