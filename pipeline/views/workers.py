"""Processes that read and draw visits ahead, in the order of need, into a ring of shared memory.

The DataLoader is torch's own. Its sampler is called in this process and takes a free slot of the ring for each visit; a
worker draws into that slot, writes the plan, digests and targets behind the pixels, and sends the slot's number. Where the
device draws, the worker packs instead, and visits that have come are drawn ahead while there are places on the device.
Workers hold no lock, and are killed when they are no longer needed or when their parent dies. One that ends, fails or hangs
ends the run with one sentence.
"""

import atexit
import errno
import math
import multiprocessing
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from pipeline.data.shards import Shards
from pipeline.runtime import units
from pipeline.runtime.errors import Interrupted, RetryError, first_line
from pipeline.runtime.machine import GRACE, patience, stop_signal
from pipeline.runtime.progress import say
from pipeline.views.choose import Visit
from pipeline.views.draw import compile_kernels
from pipeline.views.drawn import DrawnVisit
from pipeline.views.places import Arrival, Places, drawer
from pipeline.views.recipe import Recipe
from pipeline.views.ring import Ring, RingSize, ring_size
from pipeline.views.tasks import Failure, Lookup, Task, Visits, leave_all_to_the_parent

_POLL = 0.5  # seconds between two looks at the workers and at signals, while no view comes


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
        self._places, size = _places(recipe, size)
        self._all_placed, self._may_pack = size.all_placed, math.inf if size.all_placed else size.places
        self._ring = Ring(size)
        self._given: deque[int] = deque()  # slots whose visits have not come yet
        self._come: deque[Callable[[], DrawnVisit]] = deque()
        loader = DataLoader(
            Visits(shards, recipe, self._ring, lookup),
            batch_size=None,
            sampler=self._tasks(visits),  # called here: ``size.slots`` always suffice
            num_workers=size.workers,
            prefetch_factor=size.ahead if size.workers else None,
            timeout=_POLL if size.workers else 0,
            collate_fn=_same,
            worker_init_fn=leave_all_to_the_parent,
            generator=torch.Generator(),  # else a loader draws from the global one, and a resumed run drops other paths
        )
        self._processes: list[Any] = []
        self._stream: Any = iter(())
        atexit.register(self.close)  # before multiprocessing's own hook, which waits for its children
        try:
            self._stream = self._start(loader)
            if self._places is not None:
                self._places.read_from(torch.from_numpy(self._ring.memory))
        except BaseException:
            self.close()
            raise

    def _tasks(self, visits: Iterable[Visit]) -> Iterator[Task]:
        for visit in visits:
            pack = self._may_pack > 0
            self._may_pack -= pack
            self._given.append(self._ring.take())
            yield self._given[-1], visit, pack

    def _start(self, loader: DataLoader[Any]) -> Any:
        # Where workers come from a server (Python 3.14), it imports torch once, instead of each worker
        multiprocessing.set_forkserver_preload(["__main__", __name__])
        before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
        try:
            if loader.num_workers:  # as many locks as torch will make: half a loader prints a traceback at its end
                [multiprocessing.Lock() for _ in range(3 * loader.num_workers + 8)]
            return iter(loader)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
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
            if not self._come:
                self._come.append(self._receive())
            self.draw_ahead()
            return self._come.popleft()()
        except StopIteration:
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - start

    def draw_ahead(self) -> None:
        """Has the device draw the visits that have come and for which it has places; waits for nothing."""
        if self._places is not None and self._all_placed:
            while self._places.free and self._given and self._ring.is_written(self._given[0]):
                self._come.append(self._receive())

    def _receive(self) -> Callable[[], DrawnVisit]:
        """Waits for the next message; what comes out hands its visit out, or raises what its worker raised."""
        slot, visit, length = self._wait()
        self._given.popleft()
        content = pickle.loads(self._ring.read(slot, length))
        if isinstance(content, Failure):
            return partial(_refuse, content)
        block, size = self.shards.blocks[visit.block], self.recipe.size
        drawn, arrival = content.visit(block, visit.first_view), None
        if self._places is not None:
            self._places.count(visit.repeats * block.samples, content.packed)
        if self._places is not None and content.packed is not None:
            arrival = self._places.bring(torch.from_numpy(self._ring.packed(slot)), content.packed, visit.repeats)
            self._ring.free_after(slot, arrival.copied)
            drawn = replace(drawn, pixels=arrival.pixels, place=arrival.place)
        else:
            pixels = torch.from_numpy(self._ring.pixels(slot, visit.repeats, block.samples, size))
            drawn = replace(drawn, pixels=pixels, slot=slot)
        return partial(self._hand_out, drawn, content.expected, arrival)

    def _hand_out(self, drawn: DrawnVisit, expected: tuple[str, ...], arrival: Arrival | None) -> DrawnVisit:
        if arrival is not None:
            drawn = replace(drawn, digests=arrival.digests())
        if self._lookup is not None and expected and expected != drawn.digests:
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
        """Gives the memory of ``drawn`` back; its pixels will be overwritten."""
        if self._places is not None and drawn.place >= 0:
            self._places.release(drawn.place)
            self._may_pack += 1
        else:
            self._ring.free(drawn.slot)

    def close(self) -> None:
        """Kills the workers: one that is stopped or hangs ignores a polite shutdown."""
        if hasattr(self._stream, "_shutdown") and not self._stream._shutdown:
            self._stream._shutdown = True  # torch's own end takes a lock, and a worker may be killed while it has it
            if self._stream._worker_pids_set:  # else the next loader is refused if it gets this one's id
                torch._C._remove_worker_pids(id(self._stream))
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._processes = []
        self._stream = iter(())
        if self._places is not None:
            self._places.close()
            self._places = None
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


def _places(recipe: Recipe, size: RingSize) -> tuple[Places | None, RingSize]:
    """Memory on the device as ``size`` says; where the device is short of it, there is none, and the CPU draws."""
    made = drawer(recipe) if size.places else None
    if made is None:
        return None, size
    try:
        return Places(made, size.places, size.place), size
    except torch.cuda.OutOfMemoryError:
        say(
            f"views are drawn by the kernels for CPUs: {made.device} has no {units.size(size.places * size.place)} for them"
        )
        return None, replace(size, places=0)


def _refuse(failure: Failure) -> DrawnVisit:
    raise failure.kind(failure.text)


def _same(item: Any) -> Any:
    return item


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
