"""Processes that read and draw visits ahead, in the order of need, into a ring of shared memory.

The DataLoader is torch's own. Its sampler is called in this process and takes a free slot of the ring for each visit; a
worker draws into that slot, writes the plan, digests and targets behind the pixels, and sends the slot's number. Workers
hold no lock, and are killed when they are no longer needed or when their parent dies. One that ends, fails or hangs ends
the run with one sentence.
"""

import atexit
import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.shards import Block, Shards
from pipeline.runtime.errors import Interrupted, PipelineError, RetryError, first_line
from pipeline.runtime.machine import GRACE, patience, stop_signal
from pipeline.runtime.progress import say
from pipeline.views.choose import Targets, Visit
from pipeline.views.draw import compile_kernels
from pipeline.views.drawn import DrawnVisit, draw_visit
from pipeline.views.finish import FinishPlan
from pipeline.views.recipe import Recipe
from pipeline.views.ring import Ring, RingSize, ring_size


class Lookup(Protocol):
    """What is known of a visit beforehand; picklable. The call is a worker's, the refusal this process's."""

    def __call__(self, visit: Visit, block: Block) -> tuple[Targets | None, tuple[str, ...]]:
        """Its targets, if there are any, and the digests that its views must have, none where they are not compared."""

    def refuse(self, drawn: DrawnVisit) -> None:
        """Raises the refusal of a visit that has other digests."""


_POLL = 0.5  # seconds between two looks at the workers and at signals, while no view comes
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class _Failure:
    """What a worker raised, as plain data, which any process can read."""

    kind: type[PipelineError]
    text: str


class _Visits(Dataset[Any]):
    """Draws a visit into its slot: (slot, visit, bytes written behind the pixels)."""

    def __init__(self, shards: Shards, recipe: Recipe, ring: Ring, lookup: Lookup | None) -> None:
        self.shards, self.recipe, self.ring, self.lookup = shards, recipe, ring, lookup

    def __getitem__(self, task: tuple[int, Visit]) -> tuple[int, Visit, int]:
        slot, visit = task
        try:
            return slot, visit, self.ring.write(slot, pickle.dumps(self._draw(slot, visit), pickle.HIGHEST_PROTOCOL))
        except PipelineError as error:
            failure = _Failure(_base(type(error)), str(error))
        except MemoryError:
            failure = _Failure(RetryError, f"{self._place(visit)}: out of memory; set DISTIL_WORKERS lower")
        except Exception as error:  # whatever it is: one sentence instead of another process's traceback
            last = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {first_line(error)} ({last.filename}:{last.lineno})"
            failure = _Failure(RetryError, f"{self._place(visit)}: drawing failed: {what}")
        return slot, visit, self.ring.write(slot, pickle.dumps(failure))

    def _place(self, visit: Visit) -> str:
        block = self.shards.blocks[visit.block]
        return f"{self.shards.names[block.shard]}, block {block.index}, views from {visit.first_view} on"

    def _draw(self, slot: int, visit: Visit) -> tuple[Any, ...]:
        block = self.shards.blocks[visit.block]
        place = self.ring.pixels(slot, visit.repeats, block.samples, self.recipe.size)
        drawn = draw_visit(self.shards, self.recipe, block, visit.first_view, visit.repeats, place)
        known = self.lookup(visit, block) if self.lookup else (None, ())
        plan = [getattr(drawn.plan, field.name).numpy() for field in fields(FinishPlan)]
        return plan, drawn.pairs.numpy(), drawn.labels.numpy(), drawn.digests, known


class VisitReader(Iterator[DrawnVisit]):
    """The given visits, drawn, in their order, each with its targets if ``lookup`` has them. Close it, or use ``with``.

    A visit's pixels stay valid until ``release``; the caller may hold ``size.held`` visits at once. A wait for views ends
    with Interrupted ``grace`` seconds after SIGTERM, SIGUSR1 or SIGHUP. Raises a worker's refusal (with its exit code), and
    RetryError for a worker that failed, ended, or sent nothing for DISTIL_TIMEOUT seconds. ``waited``: seconds of waiting.
    """

    def __init__(
        self,
        shards: Shards,
        recipe: Recipe,
        visits: Iterable[Visit],
        size: RingSize,
        lookup: Lookup | None = None,
        grace: float = GRACE,
    ) -> None:
        self.shards, self.recipe, self.grace, self.waited = shards, recipe, grace, 0.0
        self._patience, self._lookup = patience(), lookup
        compile_kernels()  # before workers start, so that none of them compiles
        self._ring = Ring(size)
        loader = DataLoader(
            _Visits(shards, recipe, self._ring, lookup),
            batch_size=None,
            sampler=((self._ring.take(), visit) for visit in visits),  # called here: ``size.slots`` always suffice
            num_workers=size.workers,
            prefetch_factor=size.ahead if size.workers else None,
            timeout=_POLL if size.workers else 0,
            collate_fn=_same,
            worker_init_fn=_leave_all_to_the_parent,
            generator=torch.Generator(),  # else a loader draws from the global one, and a resumed run drops other paths
        )
        self._processes: list[Any] = []
        self._stream: Any = iter(())
        atexit.register(self.close)  # before multiprocessing's own hook, which waits for its children
        try:
            self._stream = self._start(loader)
        except BaseException:
            self.close()
            raise

    def _start(self, loader: DataLoader[Any]) -> Any:
        # Where workers come from a server (Python 3.14), it imports torch once, instead of each worker
        multiprocessing.set_forkserver_preload(["__main__", __name__])
        before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
        try:
            return iter(loader)
        except OSError as error:
            workers = loader.num_workers
            raise RetryError(f"cannot start {workers} loader processes: {error}; set DISTIL_WORKERS lower") from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise RetryError(
                f"a loader process ended at once: {first_line(error)}; run the same command again"
            ) from None
        finally:
            self._processes = [process for process in multiprocessing.active_children() if process not in before]
            if self._processes and threading.current_thread() is threading.main_thread():
                # torch's handler raises wherever the program is when a worker ends, amid a checkpoint for example
                signal.signal(signal.SIGCHLD, handler)

    def __next__(self) -> DrawnVisit:
        start = time.perf_counter()
        try:
            slot, visit, length = self._wait()
        except StopIteration:
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - start
        content = pickle.loads(self._ring.read(slot, length))
        if isinstance(content, _Failure):
            raise content.kind(content.text)
        plan, pairs, labels, digests, (targets, expected) = content
        block = self.shards.blocks[visit.block]
        drawn = DrawnVisit(
            block=block,
            first_view=visit.first_view,
            pixels=torch.from_numpy(self._ring.pixels(slot, visit.repeats, block.samples, self.recipe.size)),
            plan=FinishPlan(*map(torch.from_numpy, plan)),
            pairs=torch.from_numpy(pairs),
            labels=torch.from_numpy(labels),
            digests=digests,
            targets=targets,
            slot=slot,
        )
        if self._lookup is not None and expected and expected != digests:
            self._lookup.refuse(drawn)
        return drawn

    def _wait(self) -> Any:
        """The next message. Polls are counted, not seconds: a job that was suspended as a whole has lost no worker."""
        polls = 0.0
        while True:
            self.check()
            stop = stop_signal()
            if stop and stop.waited() >= self.grace:
                raise Interrupted(f"stopped by {stop.name} while waiting for views; run the same command to go on")
            if polls >= max(1, self._patience):
                stopped = [str(process.pid) for process in self._processes if _is_stopped(process.pid)]
                who = f"loader process {', '.join(stopped)} is stopped" if stopped else "the loader processes hang"
                raise RetryError(f"no views for {self._patience} s (DISTIL_TIMEOUT): {who}; run the same command again")
            try:
                return next(self._stream)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader "):  # it timed out, or a worker has ended, which is seen above
                    raise
                polls += _POLL

    def check(self) -> None:
        """Raises RetryError if a worker has ended, before the visits that were drawn ahead are used up."""
        for process in self._processes:
            if not process.is_alive():
                raise RetryError(f"loader process {process.pid} {_end(process.exitcode)}; run the same command again")

    def release(self, drawn: DrawnVisit) -> None:
        """Gives the slot of ``drawn`` back; its pixels will be overwritten."""
        self._ring.free(drawn.slot)

    def close(self) -> None:
        """Kills the workers: one that is stopped or hangs ignores a polite shutdown."""
        if hasattr(self._stream, "_shutdown"):
            self._stream._shutdown = True  # torch's own end takes a lock, and a worker may be killed while it has it
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes = []
        self._stream = iter(())
        atexit.unregister(self.close)

    def __enter__(self) -> "VisitReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_visits(
    shards: Shards, recipe: Recipe, visits: Iterable[Visit], repeats: int, workers: int, lookup: Lookup | None = None
) -> Generator[DrawnVisit, None, None]:
    """Draws visits of r = ``repeats`` views in the given order with ``workers`` processes (0: in this one). Asking for the
    next visit overwrites the pixels of the last one. Raises as VisitReader and ring_size do."""
    size = ring_size(shards, recipe, repeats, workers)
    if size.short:
        say(f"warning: {size}")
    with VisitReader(shards, recipe, visits, size, lookup) as reader:
        for drawn in reader:
            yield drawn
            reader.release(drawn)


def _same(item: Any) -> Any:
    return item


def _base(kind: type[PipelineError]) -> type[PipelineError]:
    """The nearest class of runtime.errors, which any process can unpickle."""
    return next(base for base in kind.__mro__ if base.__module__ == PipelineError.__module__)


def _end(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL: the system does so when memory runs out; fewer DISTIL_WORKERS need less)"
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


def _leave_all_to_the_parent(worker: int) -> None:
    """Ignores the signals that Slurm sends to the whole process group, so that the parent can save. PDEATHSIG kills the
    worker when its parent dies, even where it is stopped or waits for a disk."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before the line above
        os._exit(1)
