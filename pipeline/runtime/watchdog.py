"""Ends a process whose loop gives no sign for too long, so that a job goes back into the queue.

A process of its own reads the loop's beats from a pipe, so that it works whatever the loop hangs in. After a silence it asks for
a traceback of all threads, then for an end with exit code 75, which needs Python's lock, and ten seconds later it kills.
"""

import faulthandler
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_GRACE = 10.0  # seconds between asking and killing
_NAP = 1.0  # seconds between two looks, and between two beats that are sent
_END = b"e"

_pipe = -1  # into which this process beats, -1 while nothing watches it
_last = 0.0


def beat() -> None:
    """A sign of work: a step, a visit that is labelled, a batch of a validation, a checkpoint on disk."""
    global _last
    if _pipe >= 0 and (now := time.monotonic()) - _last >= _NAP:
        _last = now
        with suppress(OSError):  # full, or nobody reads
            os.write(_pipe, b".")


@contextmanager
def watched(title: str) -> Iterator[None]:
    """Ends this process if the loop in the context is silent: for three times DISTIL_TIMEOUT before its first beat (kernels
    may be compiled then), for twice that time afterwards, so that a lost rank or loader process is named first.

    The time of a process that is stopped together with its watcher does not count, nor does that of a machine that sleeps.
    """
    global _pipe
    if _pipe >= 0:  # a loop in a loop
        yield
        return
    from pipeline.runtime.machine import patience  # here, since the watching process runs this file alone

    command = [sys.executable, "-I", "-S", __file__, title, str(os.getpid()), str(patience())]
    try:
        watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    except OSError as error:  # no room for another process; the work does not need it
        sys.stderr.write(f"warning: {title}: nothing watches whether it hangs ({error.strerror})\n")
        yield
        return
    assert watcher.stdin is not None and watcher.stdout is not None
    os.set_blocking(watcher.stdin.fileno(), False)
    with suppress(AttributeError, ValueError, OSError):  # no real stderr: no traceback
        faulthandler.register(signal.SIGUSR2, chain=False)
    threading.Thread(target=_end_when_told, args=(watcher.stdout,), daemon=True).start()
    _pipe = watcher.stdin.fileno()
    try:
        yield
    finally:
        _pipe = -1
        with suppress(OSError):
            watcher.stdin.write(_END)  # loader processes may hold the pipe open
        watcher.stdin.close()
        watcher.wait()
        faulthandler.unregister(signal.SIGUSR2)


def _end_when_told(answer: Any) -> None:
    with answer:
        if answer.read(1):
            os._exit(75)


def _watch(title: str, process: int, seconds: int) -> None:
    """What the watching process does."""
    os.setsid()  # signals for the group of the stage are not for this process
    silence = longest = 0.0
    beaten, before = False, time.monotonic()
    while os.getppid() == process:
        readable = select.select([0], [], [], _NAP)[0]
        now = time.monotonic()
        silence += min(now - before, 2 * _NAP)  # more of it is time in which this process was stopped, too
        before = now
        if readable:
            said = os.read(0, 4096)
            if not said or _END in said:
                return
            beaten, longest, silence = True, max(longest, silence), 0.0
        # A slow machine's steps may take as long as a hang: what was long before is no hang.
        if silence > (max(2 * seconds, 3 * longest) if beaten else 3 * seconds):
            _end(title, process, silence)
            return


def _end(title: str, process: int, silence: float) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGUSR2)
        time.sleep(_NAP)
        sys.stderr.write(
            f"error: {title}: no sign of work for {silence:.0f} s; above is where it stands; nothing saved is lost: run the same "
            f"command to go on, or wait longer with DISTIL_TIMEOUT\nexit code 75\n"
        )
        sys.stderr.flush()
        with suppress(BrokenPipeError):
            os.write(1, _END)
        for _ in range(round(_GRACE / _NAP)):
            time.sleep(_NAP)
            if os.getppid() != process:
                return
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
