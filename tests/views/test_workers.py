"""Loader processes that are killed, stopped, run out of memory or fail in any way end a run with one sentence and 75;
nobody is left behind, and a signal to the run itself ends its wait for views. Real processes and real signals."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.students import student_answers
from pipeline.runtime.errors import IdentityError, Interrupted, PipelineError, RetryError, UsageError
from pipeline.runtime.machine import StopSignal
from pipeline.student import train
from pipeline.teacher import fit
from pipeline.training import loop
from pipeline.training.config import FitConfig
from pipeline.views import tasks, validation, workers
from pipeline.views.choose import Visit
from pipeline.views.drawn import draw_visit
from pipeline.views.ring import ring_size
from tests.support.world import World, make_world, named, student, training

GUARD = 600.0  # seconds until a test that hangs is given up


class Odd(Exception):
    """Nothing that another process could be sent: it can't be pickled, and its text has two lines."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"odd\n{pid}")
        self.lock = memoryview(b"")


class NotOurs(IdentityError):
    """A refusal that only this module knows."""


def killed(*arguments: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def stopped(*arguments: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSTOP)


def out_of_memory(*arguments: Any) -> Any:
    return bytearray(1 << 60)


def failing(*arguments: Any) -> Any:
    raise Odd(os.getpid())


def out_of_files(*_: Any) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def refusing(*arguments: Any) -> Any:
    raise NotOurs("of another kind")


def leaving(*arguments: Any) -> Any:
    os._exit(0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def read(world: World, **options: Any) -> workers.VisitReader:
    visits = [Visit(block.index, 0, 3, 0) for block in world.shards.blocks]
    return workers.VisitReader(
        world.shards, world.recipe, visits, ring_size(world.shards, world.recipe, 3, 2), **options
    )


def pids() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """No such process, or one that is dead and only not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_readers_are_opened_and_closed_in_one_process_as_often_as_it_likes(world: World) -> None:
    """torch's table of workers goes by an iterator's address, which a later one may have again."""
    for _ in range(30):
        with read(world):
            pass


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (killed, RetryError, r"loader process \d+ was killed \(SIGKILL: .*memory"),
        (
            stopped,
            RetryError,
            r"no views for 1 s \(DISTIL_TIMEOUT\): loader process \d+(, \d+)? is stopped; run the same",
        ),
        (out_of_memory, RetryError, r"000000.tar, block \d+, views from 0 on: out of memory; set DISTIL_WORKERS lower"),
        (
            failing,
            RetryError,
            r"000000.tar, block \d+, views from 0 on: drawing failed: Odd: odd \(.*test_workers.py:\d+\)",
        ),
        (out_of_files, UsageError, r"views from 0 on: Too many open files: .* raise ulimit -n"),
        (refusing, IdentityError, "^of another kind$"),
        (leaving, RetryError, r"loader process \d+ ended with exit code 0"),
    ],
)
def test_a_worker_that_ends_in_any_way_ends_the_run_with_one_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Any, kind: type[PipelineError], sentence: str
) -> None:
    monkeypatch.setenv("DISTIL_TIMEOUT", "1")
    monkeypatch.setattr(tasks, "draw_visit", fault)
    with pytest.raises(kind, match=sentence) as refusal, read(world) as reader:
        started = pids()
        next(reader)
    assert type(refusal.value) is kind and "\n" not in str(refusal.value) and len(started) == 2
    assert pids() == [] and all(gone(pid) for pid in started)


def test_a_worker_that_ends_while_others_start_ends_the_run_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's handler raises wherever this process is, until it is taken off again."""

    def visits() -> Iterator[Visit]:
        yield Visit(0, 0, 3, 0)
        started = pids()  # without the dead
        until(lambda: len(started) < 2 or any(gone(pid) for pid in started))
        yield Visit(1, 0, 3, 0)

    monkeypatch.setattr(tasks, "draw_visit", killed)
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    size = ring_size(world.shards, world.recipe, 3, 2)
    with (
        pytest.raises(RetryError, match="killed"),
        workers.VisitReader(world.shards, world.recipe, visits(), size) as it,
    ):
        next(it)
    assert pids() == []


def trained(world: World, folder: Path, number: int = 1, observe: Any = None) -> loop.Trained:
    inputs = train.Inputs(world.shards, world.val, 3, None, None, None)
    return train.train_student(named(world, training(world, 12), student(token=False)), inputs, folder, number, observe)


def fitted(world: World, folder: Path) -> Any:
    how = FitConfig(epochs=0.5, batch=64)
    return fit.fit_teacher(world.named_teacher, how, fit.FitInputs(world.shards, world.val, None), folder, 1)


def labelled(world: World, folder: Path) -> Any:
    folder.mkdir()
    for name in ("shards", "teachers"):
        (folder / name).symlink_to(world.root / name)
    return replace(world, root=folder).label("none", 3, workers=1)


def evaluated(world: World, folder: Path) -> Any:
    model = train.create_student(student(token=False), 10, world.recipe.size)
    return student_answers(model, "val", world.val, world.recipe, 1)


@pytest.mark.parametrize("stage", [trained, fitted, labelled, evaluated])
def test_every_stage_ends_when_a_worker_is_killed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    monkeypatch.setattr(tasks, "draw_visit", killed)
    monkeypatch.setattr(validation, "_ENOUGH", 1)  # else so few images are drawn without a worker
    with pytest.raises(RetryError, match="was killed"):
        stage(world, tmp_path / "run")
    assert pids() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_a_wait_for_views(world: World, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    def signals_and_hangs(*arguments: Any) -> Any:
        os.kill(os.getppid(), number)
        time.sleep(GUARD)

    monkeypatch.setattr(tasks, "draw_visit", signals_and_hangs)
    signal.signal(number, signal.SIG_DFL)  # tests that run under nohup have SIGHUP ignored, and then it stays so
    stop = StopSignal()
    with (
        pytest.raises(Interrupted, match=f"stopped by {number.name} while waiting for views"),
        read(world, grace=0.0) as it,
    ):
        next(it)
    assert stop.name == number.name and pids() == []


def test_a_training_that_is_told_to_stop_while_it_waits_saves_and_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(world, tmp_path / "whole").rows

    drawn, done = iter(range(100)), multiprocessing.Value("i", 0)

    def hangs_at_the_fifth(*arguments: Any) -> Any:
        if next(drawn) == 4:  # two lanes' windows of two visits each are there, the next ones are not
            until(lambda: done.value == 6)
            time.sleep(0.3)  # the run has nothing left to do but to wait
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(GUARD)
        return draw_visit(*arguments)

    def observe(step: int, loss: float) -> None:
        done.value = step + 1

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "draw_visit", hangs_at_the_fifth)
        with pytest.raises(RetryError, match=r"^s: stopped by SIGTERM at step 6 of 12, saved; run the same command"):
            trained(world, tmp_path / "parts", observe=observe)
    assert pids() == []
    assert trained(world, tmp_path / "parts").rows == whole


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        StopSignal()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_workers_die_with_their_parent_hold_no_lock_and_use_no_dev_shm(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = multiprocessing.Pipe()

    def tells_and_stops(*arguments: Any) -> Any:
        there.send(os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)

    monkeypatch.setattr(tasks, "draw_visit", tells_and_stops)
    run = multiprocessing.get_context("fork").Process(target=trained, args=(world, tmp_path / "run", 2))
    run.start()
    there.close()  # else the end of the run would not be seen here
    assert run.pid is not None and here.poll(GUARD)
    drawing = {here.recv(), here.recv()}
    assert len(drawing) == 2
    lock = str(tmp_path / "run" / "lock")
    open_files = {
        pid: {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()} for pid in (*drawing, run.pid)
    }
    assert lock in open_files[run.pid] and not any(lock in open_files[pid] for pid in drawing)
    mapped = Path(f"/proc/{min(drawing)}/maps").read_text()
    assert "/memfd:views" in mapped and "/dev/shm/torch" not in mapped
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    with loop.exclusive(tmp_path / "run"):
        pass
    for pid in drawing:
        until(lambda pid=pid: gone(pid))  # type: ignore[misc]
