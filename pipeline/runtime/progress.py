"""What a person sees while a stage runs."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.runtime.machine import rank
from pipeline.runtime.text import printable, show
from pipeline.runtime.units import duration, number


def say(text: str) -> None:
    """Prints a message, on rank 0 only; control characters in it appear as escapes."""
    if rank() == 0:
        show(text)


def note_saved() -> None:
    """Notes that a part or a checkpoint is on disk, in the file DISTIL_PROGRESS if there is one: a job of ``cluster`` counts
    its restarts without progress."""
    if os.environ.get("DISTIL_PROGRESS"):
        with suppress(OSError):
            Path(os.environ["DISTIL_PROGRESS"]).touch()


_LINES = 6  # of which the speed is the mean


@contextmanager
def progress(title: str, total: int, unit: str, every: float = 10.0, done: int = 0) -> Iterator[Callable[..., None]]:
    """Yields ``tick(n=1, note="")``: a bar on a terminal, else one plain line every ``every`` seconds.

    ``done``: what an earlier run did. Speed and time left come from the last six lines, so the first one, which pays for
    starting, has no time left. Work of less than a second without a note prints no line.
    """
    if rank() != 0:
        yield lambda n=1, note="": None
        return
    if sys.stderr.isatty():
        name, counted = TextColumn("{task.description}", markup=False), TextColumn(unit, markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn(), counted)
        more = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
        with Progress(*columns, *more, console=Console(stderr=True)) as bar:
            task = bar.add_task(printable(title), total=total, completed=done, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, note=printable(note))
        return
    started = last = time.monotonic()
    lines = deque([(started, done)], maxlen=_LINES)

    def tick(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= every or (done == total and (note or now - started >= 1.0)):
            since, before = lines[0]
            speed = (done - before) / max(now - since, 1e-9)
            left = f", {duration((total - done) / max(speed, 1e-9))} left" if since != started else ""
            show(f"{title}: {done}/{total} {unit}, {number(speed)}/s{left}  {note}".rstrip(), sys.stderr)
            if since == started:
                lines.clear()
            last = now
            lines.append((now, done))

    yield tick
