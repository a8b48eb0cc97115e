"""How long all stages of a run take together, from the speeds that ``cost`` measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.units import duration


@dataclass(frozen=True)
class Total:
    """Hours of a run's stages by what they do, ``starting`` their processes included, and the least and the most of all by the
    spread of the steps that were measured."""

    hours: Mapping[str, float]
    stages: int
    low: float
    high: float

    @property
    def all(self) -> float:
        return sum(self.hours.values())

    def as_json(self) -> dict[str, Any]:
        return {**self.hours, "total": self.all, "low": self.low, "high": self.high, "stages": self.stages}


def total(hours: Mapping[str, float], stages: int, rounds: Sequence[Sequence[float]]) -> Total:
    """``hours``: of the stages, by medians. ``rounds``: for each kind of step its seconds in each of five rounds; the second
    and the fourth give the spread."""
    ordered = [sorted(of) for of in rounds]
    low = min(of[1] / of[len(of) // 2] for of in ordered)
    high = max(of[-2] / of[len(of) // 2] for of in ordered)
    every = sum(hours.values())
    return Total(hours, stages, low * every, high * every)


def described(found: Mapping[str, Any], left_out: Sequence[str]) -> str:
    """The line for a person; ``left_out``: students that learn from other views than this cache's."""
    parts = [
        f"{name} {duration(3600 * found[name])}" for name in found if name not in ("total", "low", "high", "stages")
    ]
    others = f"; without {', '.join(left_out)}, whose views are others" if left_out else ""
    return (
        f"total: about {duration(3600 * found['total'])} on this machine, from {duration(3600 * found['low'])} to "
        f"{duration(3600 * found['high'])} by the spread of a few real steps ({', '.join(parts)}){others}"
    )
