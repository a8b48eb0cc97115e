"""What a person sees while a stage runs."""

import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.runtime.machine import pool_root, rank
from pipeline.runtime.text import printable, show
from pipeline.runtime.units import duration, number
from pipeline.runtime.watchdog import beat


def say(text: str) -> None:
    """Prints a message, on rank 0 only; control characters in it appear as escapes."""
    if rank() == 0:
        show(text)


_saved = 0.0  # when this process last put a part or a checkpoint on disk


def note_saved() -> None:
    """Notes that a part or a checkpoint is on disk, in the file DISTIL_PROGRESS if there is one: a job of ``cluster`` counts
    its restarts without progress."""
    global _saved
    _saved = time.time()
    beat()
    if os.environ.get("DISTIL_PROGRESS"):
        with suppress(OSError):
            Path(os.environ["DISTIL_PROGRESS"]).touch()


_LINES = 6  # of which the speed is the mean


@contextmanager
def progress(title: str, total: int, unit: str, every: float = 10.0, done: int = 0) -> Iterator[Callable[..., None]]:
    """Yields ``tick(n=1, note="")``: a bar on a terminal, else one plain line every ``every`` seconds; as often the same is left
    in the work pool for ``stages.status``.

    ``done``: what an earlier run did. Speed and time left come from the last six lines, so the first one, which pays for
    starting, has no time left. Work of less than a second without a note prints no line.
    """
    if rank() != 0:
        yield lambda n=1, note="": beat()
        return
    started = last = time.monotonic()
    lines = deque([(started, done)], maxlen=_LINES)
    left = Left(title, total, unit)

    def tick(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        beat()
        done += n
        if bar is not None and task is not None:
            bar.update(task, advance=n, note=printable(note))
        now = time.monotonic()
        if now - last >= every or (done == total and (note or now - started >= 1.0)):
            since, before = lines[0]
            speed = (done - before) / max(now - since, 1e-9)
            rest = f", {duration((total - done) / max(speed, 1e-9))} left" if since != started else ""
            left.write(done, speed, note)
            if bar is None:
                show(f"{title}: {done}/{total} {unit}, {number(speed)}/s{rest}  {note}".rstrip(), sys.stderr)
            if since == started:
                lines.clear()
            last = now
            lines.append((now, done))

    bar = _bar(unit) if sys.stderr.isatty() else None
    with bar or nullcontext(), closing(left):
        task = bar.add_task(printable(title), total=total, completed=done, note="") if bar is not None else None
        left.write(done, 0.0, "")
        yield tick


def _bar(unit: str) -> Progress:
    name, counted = TextColumn("{task.description}", markup=False), TextColumn(unit, markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), counted)
    more = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
    return Progress(*columns, *more, console=Console(stderr=True))


RUNNING = "running"  # the folder in the work pool with a file of each loop that a process is in


class Left:
    """What a loop leaves in the work pool while it runs, for another process to read; nothing where there is no pool yet."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.fields = {"title": title, "total": total, "unit": unit, "command": sys.argv, "pid": os.getpid()}
        self.fields |= {"host": platform.node(), "job": os.environ.get("SLURM_JOB_ID")}
        self.path = pool_root() / RUNNING / f"{platform.node()}-{os.getpid()}.json"
        if self.path.parent.parent.is_dir():
            with suppress(OSError):
                self.path.parent.mkdir(exist_ok=True)

    def write(self, done: int, speed: float, note: str) -> None:
        fields = self.fields | {
            "done": done,
            "per_s": speed,
            "note": note,
            "saved": _saved or None,
            "time": time.time(),
        }
        fresh = self.path.with_suffix(".fresh")
        with suppress(OSError):
            fresh.write_text(json.dumps(fields))
            fresh.replace(self.path)

    def close(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
