"""SIGKILLs while two jobs compete for every part: nothing may be lost, mixed or torn.

\b
    python -m bench.proofs.kills --kills 2000

Each store of 2 x 3 parts is made by two forked workers that are killed again and again, half of them at a named step
of the commit and half at a random moment, while a reader reads whatever is committed. In every second store the fake
teacher is not deterministic: each attempt has rows of its own, so that a part mixed of two attempts shows. The other
stores must be equal, byte for byte, to one that was never interrupted; publishing them is killed as well.
"""

import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import numpy as np

from pipeline.cache.layout import Layout, committed, is_committed
from pipeline.cache.pool import open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.cache.repair import collect
from pipeline.cache.verify import verify
from pipeline.runtime.errors import PipelineError, UsageError
from tests.support import fake_teacher as fake

T = TypeVar("T")
SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")
VIEWS = 6
WORKERS = 2
ATTEMPTS = 1000  # at most this many workers per store


@dataclass
class Result:
    kills: int = 0
    stores: int = 0
    parts: int = 0
    reads: int = 0
    publish_kills: int = 0
    at_step: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*fake.STEPS, "random moment"), 0))
    faults: list[str] = field(default_factory=list)


def run(root: Path, kills: int, seed: int) -> Result:
    """Kills workers until there were ``kills`` SIGKILLs, store after store below ``root``."""
    chance = np.random.default_rng(seed)
    result = Result()
    reference = in_child(lambda: _reference(root / "reference"))
    while result.kills < kills:
        store = root / f"store {result.stores}"
        _one_store(store, chance, result, marked=result.stores % 2 == 1, reference=reference)
        shutil.rmtree(store)
        result.stores += 1
    shutil.rmtree(root / "reference")
    return result


def _reference(root: Path) -> dict[str, bytes]:
    publish(fake.filled(root / "pool", SHAPE, VIEWS), root / "out", VIEWS, 10**9)
    return tree(root / "out")


def _one_store(
    root: Path, chance: np.random.Generator, result: Result, marked: bool, reference: dict[str, bytes]
) -> None:
    pool_root, out = root / "pool", root / "out"
    root.mkdir(parents=True)
    started = 0
    running: dict[int, str] = {}
    reading = fork(lambda: _reader(pool_root, root, marked))
    finished = False
    while running or not finished:
        while len(running) < WORKERS and not finished:
            started += 1
            step = str(chance.choice(fake.STEPS)) if chance.random() < 0.5 else "random moment"
            plan = (step, int(chance.integers(1, 3)), float(chance.exponential(0.025)))
            attempt = started if marked else 0
            order = chance.permutation(len(list(SHAPE.parts(VIEWS))))
            running[fork(partial(_worker, pool_root, attempt, order, plan))] = step
        pid, status = os.wait()
        if pid == reading:
            result.faults.append(f"{root.name}: the reader stopped with status {status}")
            break
        step = running.pop(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            result.kills += 1
            result.at_step[step] += 1
        elif os.waitstatus_to_exitcode(status) != 0:
            result.faults.append(f"{root.name}: a worker failed with status {status}; its words are above")
            finished = True
        else:
            finished = True
    (root / "stop").touch()
    with suppress(ChildProcessError):
        os.waitpid(reading, 0)
    reads, faults = pickle.loads((root / "reads").read_bytes()) if (root / "reads").exists() else (0, ["no reads"])
    result.reads += reads
    result.faults += [f"{root.name}: {fault}" for fault in faults]
    result.faults += [f"{root.name}: {fault}" for fault in in_child(lambda: _check(pool_root, started, marked))]
    result.parts += len(list(SHAPE.parts(VIEWS)))
    if not marked:
        _kill_publications(pool_root, out, chance, result, reference)


def _worker(pool_root: Path, attempt: int, order: np.ndarray, plan: tuple[str, int, float]) -> None:
    step, times, seconds = plan
    reached = 0

    def reach(now: str) -> None:
        nonlocal reached
        reached += now == step
        if now == step and reached == times:
            os.kill(os.getpid(), signal.SIGKILL)

    if step == "random moment":
        timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    pool = open_pool(pool_root, fake.identity(SHAPE))
    parts = list(SHAPE.parts(VIEWS))
    for index in order:
        if not is_committed(pool, parts[index]):
            fake.commit(pool, parts[index], attempt, reach)


def _reader(pool_root: Path, root: Path, marked: bool) -> None:
    """Reads random blocks of what is committed until told to stop; every row must be of one attempt."""
    chance, reads, faults = np.random.default_rng(0), 0, []
    blocks = fake.blocks(SHAPE)
    parent = os.getppid()
    while not (root / "stop").exists() and os.getppid() == parent:
        time.sleep(0.002)
        caches = list((pool_root / "caches").glob("*/identity.json"))
        if not caches:
            continue
        cache = open_cache(caches[0].parent)
        held = [(block, view) for block in blocks for view in range(cache.views) if cache.has(block, view)]
        for index in chance.permutation(len(held))[:5]:
            block, view = held[index]
            try:
                found = cache.read(block, view)
            except PipelineError as error:
                faults.append(f"reader: {error}")
                continue
            reads += 1
            attempts = range(ATTEMPTS) if marked else (0,)
            if not any(fake.same(found, fake.expected(SHAPE, block, view, attempt)) for attempt in attempts):
                faults.append(f"reader: {block}, view {view}: rows of no attempt")
    (root / "reads").write_bytes(pickle.dumps((reads, faults)))


def _check(pool_root: Path, attempts: int, marked: bool) -> list[str]:
    """Everything that is wrong with a store after its jobs are done."""
    pool = open_pool(pool_root, fake.identity(SHAPE))
    parts = set(SHAPE.parts(VIEWS))
    faults = [f"part {part} is lost" for part in parts - committed(pool)]
    collect(pool.path, older_than=0)
    faults += [f"left in staging: {path.name}" for path in (pool.path / "staging").iterdir()]
    faults += [f"verify: {finding.state}: {finding.reason}" for finding in verify(pool.path).findings]
    candidates = range(1, attempts + 1) if marked else (0,)
    for part in parts & committed(pool):
        found = fake.attempts_of(pool, part, candidates)
        if len(found) != 1:
            faults.append(f"part {part} holds rows of attempts {sorted(found)}")
    return faults


def _kill_publications(
    pool_root: Path, out: Path, chance: np.random.Generator, result: Result, reference: dict[str, bytes]
) -> None:
    for seconds in (*chance.uniform(0, 0.03, 2), None):
        pid = fork(partial(_publisher, pool_root, out, seconds))
        _, status = os.waitpid(pid, 0)
        result.publish_kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
            result.faults.append(f"{out.parent.name}: publishing failed with status {status}")
        if out.exists() and tree(out) != reference:
            result.faults.append(f"{out.parent.name}: differs from the store that was never interrupted")
    if not out.exists():
        result.faults.append(f"{out.parent.name}: nothing was published")


def _publisher(pool_root: Path, out: Path, seconds: float | None) -> None:
    if seconds is not None:
        timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    publish(open_pool(pool_root, fake.identity(SHAPE)), out, VIEWS, 10**9)


def fork(work: Callable[[], object]) -> int:
    """Runs ``work`` in a forked process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        os.write(2, f"worker {os.getpid()}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def in_child(work: Callable[[], T]) -> T:
    """The result of ``work`` run in a forked process, so that this one starts no threads and stays safe to fork."""
    receive, send = os.pipe()

    def deliver() -> None:
        with os.fdopen(send, "wb") as pipe:
            pickle.dump(work(), pipe)

    pid = fork(deliver)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        content = pipe.read()
    os.waitpid(pid, 0)
    if not content:
        raise UsageError("a forked check died; its words are above")
    return pickle.loads(content)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@click.command(help=__doc__)
@click.option("--kills", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--root", type=click.Path(path_type=Path), default=None, help="Where to work (default: a temporary folder)."
)
def main(kills: int, seed: int, root: Path | None) -> None:
    folder = Path(tempfile.mkdtemp(dir=root))
    before = time.perf_counter()
    result = run(folder, kills, seed)
    shutil.rmtree(folder)
    print(f"{result.kills} SIGKILLs of workers, {result.publish_kills} of publications, {result.stores} stores,")
    print(f"{result.parts} parts, {result.reads} reads beside them, {time.perf_counter() - before:.0f} s")
    for step, count in result.at_step.items():
        print(f"  {step:16} {count:5}")
    print(f"lost, mixed, torn or different: {len(result.faults)}")
    for fault in result.faults[:50]:
        print(f"  {fault}")
    raise SystemExit(1 if result.faults else 0)


if __name__ == "__main__":
    main()
