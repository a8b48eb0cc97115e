"""How benches measure and print: ways to do one thing take turns, and ratios are what to compare.

Other work on a shared machine comes and goes within seconds. So every round measures every way once, forwards and backwards
in turn, and a ratio is the median over the rounds of a way's figure over another's in the same round.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import PIL
import torch

from pipeline.runtime.machine import cores, device, device_name

T = TypeVar("T")
Step = Callable[[], object]


def seconds(step: Step) -> float:
    """Of the CPU, all threads of this process; of the clock on a GPU, which is waited for."""
    wait = torch.cuda.synchronize if device().type == "cuda" else lambda: None
    clock = time.process_time if device().type == "cpu" else time.perf_counter
    wait()
    start = clock()
    step()
    wait()
    return clock() - start


def microseconds(step: Step, items: int) -> float:
    """``seconds`` per item, of ``items`` that one step handles, in millionths."""
    return 1e6 * seconds(step) / items


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What ``call`` returns, and its seconds of the clock: for what is measured once."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def interleaved(ways: Mapping[str, Callable[[], T]], count: int, warm: int = 0) -> dict[str, list[T]]:
    """What each way returns in each of ``count`` rounds; ``warm`` rounds before them are not kept."""
    found: dict[str, list[T]] = {way: [] for way in ways}
    for number in range(-warm, count):
        for way in reversed(list(ways)) if number % 2 else ways:
            value = ways[way]()
            if number >= 0:
                found[way].append(value)
    return found


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {way: statistics.median(values) for way, values in found.items()}


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of ``values`` over ``base``, round by round."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def compared(found: Mapping[str, Sequence[float]], unit: str) -> str:
    """A table: each way's median, and its ratio to the first way."""
    first = next(iter(found))
    rows = [row(way, f"{statistics.median(of):.4g}", f"{ratio(of, found[first]):.4f}") for way, of in found.items()]
    return "\n".join([head("", unit, f"of {first}"), *rows])


def row(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*names: str) -> str:
    """The first two lines of a Markdown table."""
    return f"{row(*names)}\n|{'---|' * len(names)}"


def machine() -> str:
    """What a figure depends on: device, cores and their load just now, versions."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}"
    return f"{device_name()}, {cores()} cores at a load of {os.getloadavg()[0]:.1f}; {versions}"
