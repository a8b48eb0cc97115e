"""How many views a core draws, alone and beside others, and why: at most 60 seconds, with a verdict at the end.

\b
    python -m bench.measure.cores                     1, 2, 4, 8 and all processes
    python -m bench.measure.cores --most 15           at most so many

Printed: what this process was given (cores, CPU quota, libraries that take a slow path), what each step costs alone, and what
a view costs with more and more processes. CPU time per view says what the CPU does; what the clock shows beyond it is waiting.
Views are those of DeiT's recipe at 224 px, r = 3, of JPEGs of 500 x 375 px: a core of a 3 GHz Xeon with AVX2 draws 850 a second.
"""

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from bench.measure.views import RECIPE
from bench.photo_shards import jpegs, photo_shards
from bench.timing import head, machine, row, timed
from pipeline.base import engine
from pipeline.data.shards import Shards
from pipeline.runtime.control_groups import ROOT, cpu_quota, groups, text_of
from pipeline.runtime.libraries import slow
from pipeline.runtime.machine import cores
from pipeline.views import decode
from pipeline.views.choose import choose
from pipeline.views.draw import compile_kernels, draw
from pipeline.views.drawn import draw_visit

SECONDS = 54.0  # from the start of this process on
REPEATS = 3
_start: Any = None  # the barrier at which this process's turns begin


def throttled(root: Path = ROOT) -> float:
    """Seconds for which the quotas of this process's groups have stopped it and those beside it."""
    seconds = 0.0
    for folder in groups("cpu", root):
        counts = dict(line.split() for line in text_of(folder / "cpu.stat").splitlines())
        seconds += int(counts.get("throttled_usec", 0)) / 1e6 + int(counts.get("throttled_time", 0)) / 1e9
    return seconds


class Used(NamedTuple):
    """By one process."""

    views: int
    wall: float
    user: float
    system: float
    faults: float
    switches: float


@dataclass(frozen=True)
class Cost:
    """What ``processes`` drew at once: views/s of each, and per view CPU time (of it the kernel's), page faults and
    involuntary switches; seconds for which a quota stopped them, and the share of the CPUs that the hypervisor kept."""

    processes: int
    rate: float
    microseconds: float
    kernel: float
    faults: float
    switches: float
    throttled: float
    steal: float


def given() -> list[str]:
    """What makes drawing slow here, as far as it can be known without drawing."""
    found = list(slow())
    if decode._library() is None:
        found.append(
            "torchvision's decoder is not found, so Pillow decodes, 1.3 times as slow; install torchvision's wheel"
        )
    if not engine.kernels():
        found.append("engine pil draws, three times as slow; unset DISTIL_ENGINE, or install numba")
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "JSIMD_FORCENONE"):
        if os.environ.get(name):
            found.append(f"{name} is {os.environ[name]}; unset it")
    may_run, quota = len(os.sched_getaffinity(0)), cpu_quota()
    if quota < may_run:
        found.append(f"the quota of CPU time is {quota:.1f} CPUs, though {may_run} may be used; ask for more of them")
    return found


def steps(shards: Shards) -> dict[str, tuple[float, float]]:
    """Microseconds per image of each step of this process alone: CPU time, time of the clock."""
    samples = shards.read(shards.blocks[0])
    images = [decode.decode(sample.data, sample.key) for sample in samples]
    views = [choose(RECIPE, sample.key, 0, *image.shape[:2]) for sample, image in zip(samples, images)]
    ways: dict[str, Callable[[], object]] = {
        "read and check": lambda: shards.read(shards.blocks[0]),
        "decode": lambda: [decode.decode(sample.data, sample.key) for sample in samples],
        "draw one view": lambda: [draw(image, view, RECIPE) for image, view in zip(images, views)],
    }
    found = {}
    for name, step in ways.items():
        step()
        cpu, wall, rounds = time.process_time(), time.perf_counter(), 0
        while time.perf_counter() - wall < 1.0:
            step()
            rounds += len(samples)
        found[name] = (1e6 * (time.process_time() - cpu) / rounds, 1e6 * (time.perf_counter() - wall) / rounds)
    return found


def together(shards: Shards, processes: int, seconds: float, fresh: bool = False) -> Cost:
    """``fresh``: each visit in memory that this process has not used yet."""
    context = multiprocessing.get_context("fork")
    stopped, steal = throttled(), _ticks()
    with ProcessPoolExecutor(processes, context, _begin_at, (context.Barrier(processes),)) as pool:
        used = list(pool.map(_drawn, *zip(*[(shards, seconds, fresh)] * processes)))
    kept, all_of_them = (after - before for after, before in zip(_ticks(), steal))
    views = sum(of.views for of in used)
    user, system, faults, switches = (sum(of[field] for of in used) / views for field in range(2, 6))
    return Cost(
        processes=processes,
        rate=statistics.mean(of.views / of.wall for of in used),
        microseconds=1e6 * (user + system),
        kernel=1e6 * system,
        faults=faults,
        switches=switches,
        throttled=throttled() - stopped,
        steal=kept / max(1, all_of_them),
    )


def _begin_at(barrier: Any) -> None:
    global _start
    _start = barrier
    torch.set_num_threads(1)


def _drawn(shards: Shards, seconds: float, fresh: bool) -> Used:
    """Draws visits for a time that begins when all processes are ready."""
    shape = (REPEATS, shards.samples, 3, RECIPE.size, RECIPE.size)
    room, views = np.zeros(shape, np.uint8), 0
    draw_visit(shards, RECIPE, shards.blocks[0], 0, REPEATS, room)
    _start.wait(60)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    while time.perf_counter() - start < seconds:
        out = np.empty(shape, np.uint8) if fresh else room
        draw_visit(shards, RECIPE, shards.blocks[0], views, REPEATS, out)
        views += REPEATS * shards.samples
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    names = ("ru_utime", "ru_stime", "ru_minflt", "ru_nivcsw")
    return Used(views, wall, *(getattr(after, name) - getattr(before, name) for name in names))


def _ticks() -> tuple[int, int]:
    """Of all CPUs: kept by the hypervisor, all."""
    values = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return values[7], sum(values)


def _age() -> float:
    """Seconds since this process was started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


def verdict(costs: list[Cost], fresh: Cost, slow_here: list[str]) -> list[str]:
    """Why views are slow, from what was given and measured; one sentence if nothing stands out."""
    one, most, found = costs[0], costs[-1], list(slow_here)
    if one.rate < 400 and one.microseconds > 2000 and not slow_here:
        found.append(
            f"even alone a view takes {one.microseconds:.0f} us of CPU (1,150 on a 3 GHz Xeon): where one step above is slow, "
            f"its library is, where all are, the clock or the hypervisor"
        )
    if most.microseconds > 1.3 * one.microseconds:
        found.append(
            f"CPU time per view grows {most.microseconds / one.microseconds:.1f} times from 1 to {most.processes} processes: "
            f"CPUs are hyper-threads of fewer cores, or memory or clock is shared"
        )
    for cost in dict.fromkeys((one, most)):
        waiting = 1e6 / cost.rate / cost.microseconds
        if waiting > 1.3:
            found.append(
                f"with {cost.processes} process(es) a view takes {waiting:.1f} times as long by the clock as by the CPU: others "
                f"have the CPUs (a quota stopped it for {cost.throttled:.1f} s, the hypervisor kept {cost.steal:.0%}, the rest "
                f"is other processes)"
            )
    if most.kernel > 0.2 * most.microseconds:
        found.append("more than a fifth of the CPU time is the kernel's: page faults, or a sandbox such as gVisor")
    if fresh.microseconds > 1.3 * most.microseconds:
        found.append(
            f"fresh memory costs {fresh.microseconds / most.microseconds:.1f} times as much: page faults are slow"
        )
    return found or [
        f"nothing: {most.processes} processes draw {most.rate * most.processes:.0f} views/s; a training that gets fewer waits "
        f"for its disk or for the process that trains"
    ]


@click.command(help=__doc__)
@click.option("--most", type=click.IntRange(1), help="Processes at most. Default: all cores but one.")
def main(most: int | None) -> None:
    slow_here = given()
    print(
        f"{machine()}; quota {cpu_quota():g} CPUs, {os.cpu_count()} CPUs here; kernel {os.uname().release}\n",
        flush=True,
    )
    torch.set_num_threads(1)
    compile_kernels()
    most = most or max(1, cores() - 1)
    counts = sorted({1, 2, 4, 8, most} & set(range(1, most + 1)))
    with tempfile.TemporaryDirectory() as folder:
        shards = photo_shards(Path(folder), jpegs(16), samples=16, block=16)
        print(head("alone, us per image", "CPU", "clock"))
        for name, (cpu, wall) in steps(shards).items():
            print(row(name, f"{cpu:.0f}", f"{wall:.0f}"), flush=True)
        print("\n" + head("processes", "views/s each", "in all", "CPU us", "kernel us", "faults", "switches", "throttled s",
                          "steal"))  # fmt: skip
        ways = [*((count, False) for count in counts), (counts[-1], True)]
        costs: list[Cost] = []
        starting = 1.0  # seconds until processes draw, as the ones before took
        for count, fresh in ways:
            seconds = max(0.5, (SECONDS - _age()) / (len(ways) - len(costs)) - starting)
            cost, taken = timed(partial(together, shards, count, seconds, fresh))
            costs.append(cost)
            starting = taken - seconds
            print(
                row(f"{count}, fresh memory" if fresh else count, f"{cost.rate:.0f}", f"{cost.rate * count:.0f}",
                    f"{cost.microseconds:.0f}", f"{cost.kernel:.0f}", f"{cost.faults:.1f}", f"{cost.switches:.3f}",
                    f"{cost.throttled:.1f}", f"{cost.steal:.1%}"),
                flush=True,
            )  # fmt: skip
    print("\nwhat is slow here:")
    for text in verdict(costs[:-1], costs[-1], slow_here):
        print(f"- {text}")


if __name__ == "__main__":
    main()
