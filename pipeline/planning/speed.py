"""Which of drawing, the training process and the device limits a training, and how many cores would feed it."""

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Speed:
    """Seconds per row of a training: ``drawing`` on one core of ``workers``; ``main``, the training process, from a drawn
    view to a finished batch; ``step``, the device. On a CPU the last two take turns."""

    drawing: float
    workers: int
    main: float
    step: float
    device: torch.device

    @property
    def taking(self) -> float:
        """Seconds per row in which a training takes in what is drawn."""
        return self.main + self.step if self.device.type == "cpu" else max(self.main, self.step)

    @property
    def seconds(self) -> float:
        return max(self.drawing / max(1, self.workers), self.taking)

    @property
    def limit(self) -> str:
        if self.seconds > self.taking:
            return "drawing"
        return "main process" if self.main > self.step else "step"

    @property
    def cores(self) -> int:
        """Cores that draw as fast as the training takes in."""
        return math.ceil(self.drawing / self.taking)


def hours(cached: Speed, live: Speed, rows: int) -> dict[str, Any]:
    """What a training of ``rows`` rows takes both ways, what limits it, and the cores that would feed it, as JSON data."""
    found: dict[str, Any] = {"milliseconds_per_row": 1e3 * cached.step, "milliseconds_main": 1e3 * cached.main}
    for way, speed in (("cached", cached), ("live", live)):
        found |= {
            f"hours_{way}": rows * speed.seconds / 3600,
            f"limit_{way}": speed.limit,
            f"cores_{way}": speed.cores,
        }
    return found
