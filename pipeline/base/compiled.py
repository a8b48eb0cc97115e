"""Functions that numba compiles, and where they are kept. Only code that ``engine`` allows imports this.

Machine code is kept on disk, so that a process loads it in a fraction of a second: in ``NUMBA_CACHE_DIR`` if the user sets
it, else in a folder of this user and machine in the user's cache, else in the temporary folder. The place is chosen before
numba is imported, which reads it then. numba's own files have no checksums, and name a source by its path; so each function
has a file of its own here, in a folder that the sources' hash names, which clones share.

No fastmath: numba then neither fuses nor reorders floating-point operations, and the bits are the same on every CPU.
"""

import hashlib
import os
import pickle
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from platformdirs import user_cache_path

from pipeline.base import files
from pipeline.runtime.code import imported, path_of
from pipeline.runtime.errors import IntegrityError, UsageError, first_line
from pipeline.runtime.machine import home_expanded
from pipeline.runtime.progress import say

F = TypeVar("F", bound=Callable[..., object])
_SUM = hashlib.sha256().digest_size  # bytes before the machine code


def cache_folder() -> Path:
    """A folder that only this user can write, made if it is not there. One per machine, because machines that share a home
    may have other CPUs."""
    temporary = Path(tempfile.gettempdir(), f"offline-deit-{os.getuid()}-{platform.node()}")
    for folder in (user_cache_path("offline-deit") / platform.node(), temporary):
        if not folder.is_absolute():  # "~", in a container whose user has no home
            continue
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _others_of(folder) and _writable(folder):
                return folder
    return Path(tempfile.mkdtemp(prefix="offline-deit-"))  # forked and spawned workers inherit the variable


def _others_of(folder: Path) -> str:
    """Who else can write in ``folder``, as part of a sentence; "" if nobody: code that others wrote would run as this user."""
    state = folder.stat()
    if state.st_uid != os.getuid():
        return f"is user {state.st_uid}'s"
    return f"can be written by others (mode {state.st_mode & 0o777:o})" if state.st_mode & 0o022 else ""


def _writable(folder: Path) -> bool:
    """Whether a file can be made there: ``os.access`` is wrong on some network file systems."""
    with tempfile.TemporaryFile(dir=folder):
        return True


def _choose_folder() -> str:
    given = os.environ.get("NUMBA_CACHE_DIR")
    if not given:
        return str(cache_folder())
    folder = home_expanded("NUMBA_CACHE_DIR", Path(given))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        others = _others_of(folder)
        if not others:
            _writable(folder)
    except OSError as error:
        raise UsageError(f"NUMBA_CACHE_DIR {given}: {error.strerror}; name a folder to write to, or unset it") from None
    if others:
        raise UsageError(
            f"NUMBA_CACHE_DIR {given}: {others}, and code that they put there would run as you; name a folder of your own "
            f"(mode 700), or unset it"
        )
    return str(folder)


os.environ["NUMBA_CACHE_DIR"] = _choose_folder()

# numba reads the variable when it is imported, so these can't stand at the top.
import numba  # noqa: E402 - after the variable is set
from numba.core import event  # noqa: E402 - after the variable is set
from numba.core.caching import FunctionCache  # noqa: E402 - after the variable is set
from numba.core.compiler import CompileResult  # noqa: E402 - after the variable is set
from numba.core.serialize import dumps  # noqa: E402 - after the variable is set

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # where something else has imported numba before

_made: list[numba.core.registry.CPUDispatcher] = []


class _Kept(FunctionCache):
    """The machine code of one function on disk: a file per signature and CPU, which begins with ``_sum``."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._py_func, self._cache_path = function, str(_folder_of(Path(function.__code__.co_filename)))

    def load_overload(self, signature: Any, context: Any) -> Any:
        context.refresh()
        path = self._file(signature, context.codegen())
        try:
            content = files.read_small(path)
            if _sum(path, content[_SUM:]) != content[:_SUM]:
                raise ValueError("its checksum is wrong")
            return CompileResult._rebuild(context, *pickle.loads(content[_SUM:]))
        except FileNotFoundError:
            return None
        except Exception as error:  # bytes of any kind meet code of any kind
            _drop(f"{path.name}: {first_line(error)}")
            return None

    def save_overload(self, signature: Any, made: Any) -> None:
        if made.library.has_dynamic_globals:  # addresses of this process
            return
        content = dumps(made._reduce())
        path = self._file(signature, made.codegen)
        fresh = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_bytes(_sum(path, content) + content)
            fresh.replace(path)
        except OSError as error:
            _say_once(
                f"{path.parent}: {error.strerror}; compiled kernels can't be kept, and the next process makes them again"
            )
            with suppress(OSError):
                fresh.unlink()

    def flush(self) -> None:
        pass

    def _file(self, signature: Any, codegen: Any) -> Path:
        key = repr(self._index_key(signature, codegen)).encode()
        return Path(self._cache_path, f"{self._py_func.__name__}-{hashlib.sha256(key).hexdigest()[:32]}.code")


def _sum(path: Path, code: bytes) -> bytes:
    """SHA-256 of machine code and of the name that it goes by, so that another function's shows."""
    return hashlib.sha256(path.name.encode() + code).digest()


@cache
def _folder_of(source: Path) -> Path:
    """The folder of what is compiled from ``source`` and the modules that it imports, by this Python and numba."""
    total = hashlib.sha256(f"{sys.version} {numba.__version__}".encode())
    for path in sorted(_sources(source)):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return Path(os.environ["NUMBA_CACHE_DIR"], f"{source.stem}-{total.hexdigest()[:32]}")


def _sources(source: Path) -> set[Path]:
    inner = [path_of(module) for module in imported(source) if not module.startswith("runtime.")]
    return {source}.union(*map(_sources, inner))


def _drop(reason: str) -> None:
    """Removes what is kept of all functions of this process."""
    _say_once(f"the compiled kernels in {os.environ['NUMBA_CACHE_DIR']} are damaged ({reason}); they are compiled anew")
    for folder in {made._cache.cache_path for made in _made}:
        shutil.rmtree(folder, ignore_errors=True)


_say_once = cache(say)


def kernel(function: F) -> F:
    """``function``, compiled for its arguments' types at its first call, or loaded from the disk."""
    compiled = numba.njit(nogil=True, boundscheck=False)(function)
    compiled._cache = _Kept(function)
    _made.append(compiled)
    return cast(F, compiled)


def inlined(function: F) -> F:
    """``function`` inlined in the kernels that call it: a call with slices takes longer than a row of pixels."""
    return cast(F, numba.njit(inline="always", nogil=True, boundscheck=False)(function))


def misses() -> int:
    """How many kernels this process compiled because the disk did not have them."""
    return sum(sum(compiled.stats.cache_misses.values()) for compiled in _made)


def known_picture(height: int, width: int) -> np.ndarray:
    """Pixels that look like noise and are the same everywhere, uint8 (height, width, 3)."""
    values = np.arange(height * width * 3, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(13)
    return (values % 256).astype(np.uint8).reshape(height, width, 3)


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


def compile_ahead(draw: Callable[[], bytes], known: str) -> None:
    """Calls ``draw``, which calls kernels, so that they are compiled or loaded before workers start. Says so where one is
    compiled, which takes seconds. ``known`` is the SHA-256 of what ``draw`` gives; where it gives other bytes, all kernels are
    compiled anew. Raises IntegrityError if that does not help."""
    with event.install_listener("numba:compile", _Say()):
        if hashlib.sha256(draw()).hexdigest() == known:
            return
        _drop("they draw other pixels")
        for compiled in _made:
            compiled.recompile()
        if (found := hashlib.sha256(draw()).hexdigest()) != known:
            raise IntegrityError(
                f"the kernels draw other pixels on this machine (sha256 {found}, expected {known}); set DISTIL_ENGINE=pil, "
                f"and check its memory and numba {numba.__version__}"
            )
