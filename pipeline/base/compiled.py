"""Functions that numba compiles, and where their machine code is kept. Only code that ``engine`` allows imports this.

Machine code is kept on disk, so that a process loads it in a fraction of a second: in ``NUMBA_CACHE_DIR`` if the user sets
it, else in a folder of this user and machine in the user's cache, else in the temporary folder. The place is chosen before
numba is imported, which reads it then.

No fastmath: numba then neither fuses nor reorders floating-point operations, and the bits are the same on every CPU.
"""

import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from platformdirs import user_cache_path

from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say

F = TypeVar("F", bound=Callable[..., object])


def cache_folder() -> Path:
    """A folder that only this user can write, made if it is not there. One per machine, because machines that share a home
    would lock and rewrite each other's files."""
    temporary = Path(tempfile.gettempdir(), f"offline-deit-{os.getuid()}-{platform.node()}")
    for folder in (user_cache_path("offline-deit") / platform.node(), temporary):
        if not folder.is_absolute():  # "~", in a container whose user has no home
            continue
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            state = folder.stat()  # code that others could write would run as this user
            if state.st_uid == os.getuid() and not state.st_mode & 0o022 and _writable(folder):
                return folder
    return Path(tempfile.mkdtemp(prefix="offline-deit-"))  # forked and spawned workers inherit the variable


def _writable(folder: Path) -> bool:
    """Whether a file can be made there: ``os.access`` is wrong on some network file systems."""
    with tempfile.TemporaryFile(dir=folder):
        return True


def _choose_folder() -> str:
    given = os.environ.get("NUMBA_CACHE_DIR")
    if not given:
        return str(cache_folder())
    try:
        Path(given).mkdir(parents=True, exist_ok=True)
        _writable(Path(given))
    except OSError as error:
        raise UsageError(f"NUMBA_CACHE_DIR {given}: {error.strerror}; name a folder to write to, or unset it") from None
    return given


os.environ["NUMBA_CACHE_DIR"] = _choose_folder()

# numba reads the variable when it is imported, so these two can't stand at the top.
import numba  # noqa: E402
from numba.core import event  # noqa: E402

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # where something else has imported numba before

_made: list[numba.core.registry.CPUDispatcher] = []


def kernel(function: F) -> F:
    """``function``, compiled for its arguments' types at its first call, or loaded from the disk."""
    compiled = numba.njit(cache=True, nogil=True, boundscheck=False)(function)
    _made.append(compiled)
    return cast(F, compiled)


def inlined(function: F) -> F:
    """``function`` inlined in the kernels that call it: a call with slices takes longer than a row of pixels."""
    return cast(F, numba.njit(inline="always", nogil=True, boundscheck=False)(function))


def misses() -> int:
    """How many kernels this process compiled because the disk did not have them."""
    return sum(sum(compiled.stats.cache_misses.values()) for compiled in _made)


class _Say(event.Listener):
    """Says once that kernels are compiled."""

    def __init__(self) -> None:
        self.said = False

    def on_start(self, event: event.Event) -> None:
        if not self.said:
            say(f"compiling the kernels that draw, once on this machine, into {numba.config.CACHE_DIR}")
        self.said = True

    def on_end(self, event: event.Event) -> None:
        pass


def compile_ahead(run: Callable[[], object]) -> None:
    """Calls ``run``, which calls kernels, so that they are compiled or loaded before workers start. Says so where one is
    compiled, which takes seconds."""
    with event.install_listener("numba:compile", _Say()):
        run()
