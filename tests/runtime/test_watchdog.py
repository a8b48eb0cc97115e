"""A loop that hangs is ended, whatever it hangs in, and says where; one that works, and one that nobody asks about, is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runtime.code import ROOT
from pipeline.runtime.watchdog import watched

LOOP = """
import ctypes, os, time
from pipeline.runtime.watchdog import beat, watched
def hang(how):
    if how == "sleeps":
        time.sleep(3600)
    elif how == "holds the lock":
        mutex, c = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
        c.pthread_mutex_lock(mutex), c.pthread_mutex_lock(mutex)
    elif how == "is stopped":
        os.kill(os.getpid(), 19)
with watched("a loop"):
    for _ in range(4):
        beat()
        time.sleep(1.1)
    hang(HOW)
with watched("another loop"):
    print("worked", flush=True)
time.sleep(AFTER)
"""


def run(how: str, after: float = 0.0) -> subprocess.Popen[str]:
    code = LOOP.replace("HOW", repr(how)).replace("AFTER", str(after))
    environment = os.environ | {"DISTIL_TIMEOUT": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, **pipes)


@pytest.fixture(scope="module")
def ended() -> dict[str, tuple[int, str, str]]:
    """All at once: exit code, stdout and stderr by how the loop hangs."""
    processes = {how: run(how) for how in ("sleeps", "holds the lock", "is stopped", "works")}
    said = {how: process.communicate(timeout=600) for how, process in processes.items()}
    return {how: (processes[how].returncode, *said[how]) for how in processes}


@pytest.mark.parametrize(
    ("how", "code"), [("sleeps", 75), ("holds the lock", -signal.SIGKILL), ("is stopped", -signal.SIGKILL)]
)
def test_a_loop_that_hangs_is_ended(ended: dict[str, tuple[int, str, str]], how: str, code: int) -> None:
    found, _, told = ended[how]
    assert found == code and "error: a loop: no sign of work for" in told
    assert ("in hang" in told) == (how != "is stopped")  # the traceback; a stopped process has no time for it


def test_a_loop_that_works_ends_by_itself_and_nothing_watches_afterwards(
    ended: dict[str, tuple[int, str, str]],
) -> None:
    code, said, told = ended["works"]
    assert (code, said, told) == (0, "worked\n", "")


def test_a_loop_in_a_loop_has_the_same_watcher() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text().split()
    with watched("a loop"):
        outer = children.read_text().split()
        with watched("a validation"):
            assert children.read_text().split() == outer and len(outer) == len(before) + 1
    assert children.read_text().split() == before


def test_the_watcher_ends_with_the_process() -> None:
    process = run("sleeps")
    time.sleep(1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.1)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in found):
        time.sleep(0.1)
