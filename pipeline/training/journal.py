"""What a person watches during a run: images per second, waiting, curves for TensorBoard.

Times are of this machine and run, so they stay beside the checkpoints and in no file that DVC hashes: a student trained again
to the same bits has the same hash.

    RUN/speed.csv            per epoch: images/s over all ranks, share of the time that rank 0 spent waiting for views
    RUN/tensorboard/TITLE/   the same and every number of log.csv, where TensorBoard is installed
"""

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.files import write_durably
from pipeline.runtime.errors import first_line
from pipeline.runtime.machine import rank, world_size
from pipeline.runtime.progress import say
from pipeline.training.batches import Batch

_COLUMNS = ("epoch", "step", "images_per_s", "waiting")


class Journal:
    """The journal of a run in ``directory`` that goes on from step ``start``; it drops rows of later steps. Only rank 0
    writes. Time spent scoring is not counted."""

    def __init__(self, title: str, directory: Path, start: int) -> None:
        self.path = directory / "speed.csv"
        self.rows: list[dict[str, float]] = []
        if self.path.is_file():
            try:
                with self.path.open(encoding="utf-8", newline="") as file:
                    rows = list(csv.DictReader(file))
                there = [{name: float(row[name]) for name in _COLUMNS} | {"step": int(row["step"])} for row in rows]
                self.rows = [row for row in there if row["step"] <= start]
            except (ValueError, KeyError, TypeError, csv.Error) as error:  # no output: a damaged one stops no training
                say(f"warning: {self.path}: not the speeds of this run ({first_line(error)}); it begins anew")
        self.events = _events(directory / "tensorboard" / title, start) if rank() == 0 else None
        if self.events is not None:
            say(f"{title}: curves: tensorboard --logdir {directory / 'tensorboard'}")
        self.resume()

    def resume(self) -> None:
        """Counts from now on."""
        self.since, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """``batches``; sums up how long this process waited for their views."""
        for batch in batches:
            self.waited += batch.waited
            self.samples += len(batch.labels) * world_size()
            yield batch

    def note(self, row: dict[str, float]) -> dict[str, float]:
        """Speed since ``resume``, written to the file beside the epoch and step of ``row``, a row of the log."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        speed = {"images_per_s": self.samples / seconds, "waiting": self.waited / seconds}
        self.rows.append({"epoch": row["epoch"], "step": row["step"], **speed})
        if rank() == 0:
            lines = [",".join(_COLUMNS), *(",".join(str(r[name]) for name in _COLUMNS) for r in self.rows)]
            write_durably(self.path, ("\n".join(lines) + "\n").encode())
        return speed

    def draw(self, row: dict[str, float], speed: dict[str, float]) -> None:
        """Adds a row of the log and its speed to TensorBoard's curves."""
        if self.events is not None:
            for name, value in (row | speed).items():
                if name != "step":
                    self.events.add_scalar(name, value, int(row["step"]))
            self.events.flush()

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def _events(directory: Path, start: int) -> Any:
    """TensorBoard's writer, None if it is not installed; it hides what a killed run wrote after ``start``."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=start + 1)
