"""The frame of every stage: refusals become one sentence and an exit code; seconds are noted for the report."""

import functools
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pipeline.runtime.errors import PipelineError
from pipeline.runtime.libraries import require_libraries
from pipeline.runtime.machine import cores, home_expanded, rank, require_linux
from pipeline.runtime.memory import enough_memory
from pipeline.runtime.system_errors import explain
from pipeline.runtime.text import show

P = ParamSpec("P")
T = TypeVar("T")


def stage(command: Callable[P, T]) -> Callable[P, T]:
    """Turns refusals into one sentence and their exit code. DVC hides the code, so the last line prints it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            require_linux()
            require_libraries()
            _leave_cores_to_workers()
            options: dict[str, Any] = {
                name: home_expanded(f"--{name.replace('_', '-')}", value) if isinstance(value, Path) else value
                for name, value in kwargs.items()
            }
            with enough_memory():
                return command(*args, **options)
        except PipelineError as error:
            text, code = str(error), error.exit_code
        except (OSError, RuntimeError) as error:
            refusal = explain(error, kwargs)
            if refusal is None:
                raise
            text, code = str(refusal), refusal.exit_code
        except KeyboardInterrupt:
            text, code = "interrupted; run the same command to go on", 130
        show(f"error: {text}\nexit code {code}", sys.stderr)
        gc.collect()  # ends loader processes that the traceback still refers to; exit would wait for them
        sys.exit(code)

    return run


def _leave_cores_to_workers() -> None:
    """Half of the cores for torch in this process, unless OMP_NUM_THREADS says otherwise; loader workers need the rest."""
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, cores() // 2)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        else:  # torch reads it when a stage imports it
            os.environ["OMP_NUM_THREADS"] = str(threads)


@contextmanager
def timed(out: Path | None, name: str) -> Iterator[dict[str, object]]:
    """Writes the block's seconds and peak memory, and what it adds to the yielded mapping, to ``work/seconds/<name>.json``
    for the report. They are of this machine and run, so no stage depends on them.
    """
    start = time.perf_counter()
    notes: dict[str, object] = {}
    yield notes
    if out is not None and rank() == 0:
        folder = next((parent for parent in out.absolute().parents if parent.name == "work"), out.absolute().parent)
        path = folder / "seconds" / f"{name.replace(':', '-')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.perf_counter() - start, 2)
        path.write_text(json.dumps({"stage": name, "seconds": seconds, **_peaks(), **notes}) + "\n")


def _peaks() -> dict[str, int]:
    """Peak memory in bytes: of this process or of its largest child, and of the GPU where there is one."""
    import resource  # here, because Windows has none, where a stage is to end with a sentence

    found = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return {"peak_bytes": found, "peak_gpu_bytes": torch.cuda.max_memory_allocated()}
    return {"peak_bytes": found}
