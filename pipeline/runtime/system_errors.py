"""What the system refuses, as one sentence: a path with the option, variable or key that names it, a disk, a limit."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import IntegrityError, PipelineError, RetryError, UsageError, first_line
from pipeline.runtime.text import printable, shortened
from pipeline.runtime.work import POOL

_MEANING = {
    errno.ELOOP: "; it is a link that leads back to itself",
    errno.ENOTDIR: "; a file stands where a directory is expected",
    errno.EBUSY: "; something uses it, or it is a mount point, which nothing can replace",
}
_BUSY = {errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENOLCK}  # another time it may work
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LIMITS = {
    errno.EFBIG: "a file may not become so large here: raise ulimit -f, or use a file system for larger files",
    errno.EMFILE: "this process may not open more files: raise ulimit -n",
    errno.ENFILE: "the machine may not open more files: raise fs.file-max",
}
_VARIABLES = (
    "DATA_ROOT",
    "IMAGENET_ROOT",
    "TEST_ROOT",
    "NUMBA_CACHE_DIR",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TMPDIR",
    "HOME",
)
_ARGUMENT = "path"  # of the commands that take one without an option's name
_SHARED = Path("/dev/shm")  # where processes have their locks
_LEAST_SHARED = 1 << 16  # bytes


def explain(error: BaseException, options: Mapping[str, object]) -> PipelineError | None:
    """The refusal that ``error`` stands for, None for what is no refusal of the system. ``options``: of the command, by
    name."""
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):  # pathlib's word for ELOOP
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(error).partition("'")[2].rstrip("'"))
    if not isinstance(error, OSError):
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    where = f"{shortened(printable(name), 200)}{_origin(name, options)}: " if name else ""
    why = error.strerror or first_line(error)
    if error.errno in _LIMITS:
        return UsageError(f"{where}{why}: {_LIMITS[error.errno]}")
    if not name and (shared := _shared_memory()):
        return UsageError(f"{_SHARED}: {shared}, and processes share locks there; mount it writable, with 1 MB or more")
    if error.errno in _FULL:
        return RetryError(f"no space left: {where}{why}; free some space, then run the same command")
    if error.errno == errno.EIO:
        return IntegrityError(
            f"{where}{why}; the disk, or the network before it, fails (dmesg may say more); use another"
        )
    if error.errno in _BUSY and name:
        return RetryError(f"{where}{why}; run the same command again")
    if name:
        return UsageError(f"{where}{why}{_MEANING.get(error.errno or 0, '')}; correct the path or its permissions")
    return None


def _origin(name: str, options: Mapping[str, object]) -> str:
    """Which option, variable or key names a path: the one whose value is its longest beginning."""
    from pipeline.runtime.config import read_yaml  # here, since it takes a while

    paths = {key: str(value) for key, value in options.items() if isinstance(value, Path) and key != _ARGUMENT}
    given = {f"--{key.replace('_', '-')}": value for key, value in paths.items()}
    given |= {variable: os.environ[variable] for variable in _VARIABLES if os.environ.get(variable)}
    given["DISTIL_POOL"] = os.environ.get("DISTIL_POOL") or POOL
    params, path, lengths = options.get("params"), Path(name).absolute(), dict[str, int]()
    with suppress(PipelineError, OSError, RuntimeError):  # whatever else is wrong is not what this is about
        texts = _texts(read_yaml(params)) if isinstance(params, Path) else ()
        given |= {f"{key} in {params}": value for key, value in texts if "/" in value or value == name}
    for what, value in given.items():
        with suppress(RuntimeError):  # a home that nobody has
            found = Path(value).expanduser().absolute()
            if found.name and path.is_relative_to(found):
                lengths[what] = len(found.parts)
    return f" ({max(lengths, key=lambda what: lengths[what])})" if lengths else ""


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The texts in nested mappings, by their keys."""
    if isinstance(value, str):
        yield path, value
    for key, entry in value.items() if isinstance(value, dict) else ():
        yield from _texts(entry, f"{path}.{key}" if path else str(key))


def _shared_memory() -> str:
    """Why processes can't share locks; "" where they can."""
    try:
        there = os.statvfs(_SHARED)
    except OSError as error:
        return error.strerror or "missing"
    if there.f_flag & os.ST_RDONLY:
        return "read-only"
    free = there.f_bavail * there.f_frsize
    return f"{free:,} bytes are free" if there.f_blocks and free < _LEAST_SHARED else ""  # no blocks: no limit
