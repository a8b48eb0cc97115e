"""The training loop, for teacher and student alike: steps, log, checkpoints, stop signals, ranks.

Killed at any point it goes on from the last checkpoint, on a CPU in float32 to the same bits as an uninterrupted run of
the same world size and number of threads (a GPU's attention may add up in another order): the order of the data is a
function of the step, and a checkpoint holds the rest. The last step is saved as well, so that a finished run is not trained
again.

Differences from DeiT's main.py: no "best" checkpoint is kept (its record restarts at 0 on a resume, and a choice by
validation accuracy flatters); a checkpoint holds the state of every generator (DeiT's holds none); a loss that is not finite
ends the run, too, but the sentence names the steps, and the checkpoint before it is whole.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.base.files import sha256_file
from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import Interrupted, RetryError
from pipeline.runtime.machine import StopSignal, rank, sum_over_ranks, world_size
from pipeline.runtime.memory import enough_memory
from pipeline.runtime.progress import progress, say
from pipeline.runtime.units import number
from pipeline.runtime.watchdog import watched
from pipeline.training import run_libraries
from pipeline.training.batches import Loader
from pipeline.training.config import LoopConfig
from pipeline.training.journal import Journal
from pipeline.training.optimizer import make_average, make_scheduler, update_average
from pipeline.training.state import Row, State
from pipeline.training.step import Compute, Stepper, share_buffers, tensor_float32


@dataclass(frozen=True)
class Task:
    """What a model is trained for. ``score`` is asked about the model and the average of its weights at the end of every
    ``score_epochs``-th epoch, and its values join the log row; ``observe(step, loss)`` sees every step's loss, at the price
    of a synchronisation each."""

    compute: Compute
    score: Callable[[nn.Module, nn.Module | None], Row] | None = None
    observe: Callable[[int, float], None] | None = None


@dataclass(frozen=True)
class Trained:
    """``average`` is the state of the weights' moving average (None if off); one log row per epoch, and of the speeds of
    this run, which are no output, as many."""

    model: nn.Module
    average: dict[str, torch.Tensor] | None
    rows: list[Row]
    speed: list[Row]


def run(title: str, model: nn.Module, task: Task, config: LoopConfig, loader: Loader, directory: Path) -> Trained:
    """Trains ``model`` in place for ``schedule.steps(config.epochs)`` steps of the ``loader``; ``directory`` holds the
    checkpoints. Raises RetryError (75) after saving when told to stop, IntegrityError on a loss or weights that are not
    finite."""
    schedule, device = loader.schedule, loader.device
    steps, per_epoch = schedule.steps(config.epochs), schedule.steps_per_epoch()
    # Optimiser, schedule and average, from the newest checkpoint on.
    torch.manual_seed(config.seed + rank())  # stochastic depth and dropout; views never use it
    stepper = Stepper(model, config, device)
    scheduler = make_scheduler(stepper.optimizer, config.optimizer, steps, per_epoch)
    average = make_average(model, config.optimizer)
    state = State(title, directory, stepper, average)
    start = state.restore()
    say(f"{title}: {_rate(config)}; checkpoints and speed.csv in {directory}")
    run_libraries.note_libraries(title, directory, start, device)
    if start:
        say(f"{title}: goes on from step {start} of {steps}")
    journal, stop = Journal(title, directory, start), StopSignal()
    note = _note(state.rows[-1] | (journal.rows or [{}])[-1]) if state.rows else ""

    def add_score(row: Row) -> None:
        """Scores the end of an epoch, the last ``row`` of the log, where that is due and was not done before a stop."""
        due = len(state.rows) % config.score_epochs == 0 or row["step"] == steps
        if task.score is not None and due and not any(name.startswith("val_") for name in row):
            averaged = average.module if average is not None else None
            share_buffers(model, averaged)
            try:
                row |= task.score(model, averaged)
            except Interrupted:
                if world_size() == 1:  # the score is made up for when the run goes on
                    state.save(int(row["step"]))
                    raise _stopped(title, stop, int(row["step"]), steps) from None
                raise
            model.train()

    model.train()
    loading = closing(loader.batches(start, steps))
    held = {"lanes": schedule.lanes, "window": schedule.window, "block": max(schedule.blocks)}
    with (
        enough_memory(batch=config.batch, accumulate=config.accumulate, **held),
        loading as stream,
        watched(title),
        progress(title, steps, "steps", done=start) as tick,
        tensor_float32(config.tf32),
        closing(journal),
    ):
        if start and state.rows and state.rows[-1]["step"] == start:
            add_score(state.rows[-1])
        batches = journal.watched(stream)
        for step in range(start, steps):
            # The batch; told to stop while it waits, a process that is alone saves what it has.
            try:
                batch = next(batches)
            except Interrupted:
                if world_size() > 1:  # the others are in this step and can't save another one
                    raise
                state.save(step)
                raise _stopped(title, stop, step, steps) from None
            # One step, and its share of the average and of the log.
            scheduler.step_update(step)
            values = stepper(task.compute, batch)
            if average is not None:
                update_average(average, model, config.optimizer, step)
            state.add(values, batch)
            if task.observe is not None:
                task.observe(step, float(values["loss"]))
            done = step + 1
            # The end of an epoch: a row of the log, and a score.
            if done % per_epoch == 0 or done == steps:
                row = state.end_epoch(done, per_epoch)
                speed = journal.note(row)
                add_score(row)
                journal.draw(row, speed)
                note = _note(row | speed)
                journal.resume()
            # Save where it is due, and stop where told to.
            stopping = _agreed(stop, done, device)
            if stopping or done == steps or done % config.checkpoint_steps == 0:
                state.save(done)
            tick(1, note)
            if stopping and done < steps:
                raise _stopped(title, stop, done, steps)
    return Trained(model, average.module.state_dict() if average is not None else None, state.rows, journal.rows)


def _note(row: Row) -> str:
    """What each line of progress says of the last epoch, from its row of the log and its speed."""
    scores = [f"{name} {number(row[name])}" for name in ("loss", "val_top1") if name in row]
    speed = [f"{number(row['images_per_s'])} images/s", f"waiting {row['waiting']:.0%}"] if "waiting" in row else []
    return f"epoch {number(row['epoch'])}: {', '.join([*scores, *speed])}"


def _rate(config: LoopConfig) -> str:
    """The learning rate that is really used, in words."""
    how, rate = config.optimizer, config.optimizer.scaled_lr(config.batch)
    scaled = f"{how.lr:g} x batch {config.batch} / 512" if how.scale_lr else "not scaled with the batch"
    warmup = f"; {how.warmup_epochs:g} epochs of warm-up from {how.warmup_lr:g}" if how.warmup_epochs else ""
    return f"{how.name}, learning rate {rate:g} ({scaled}) down to {how.min_lr:g}{warmup}"


def code_hashes(code: list[str]) -> dict[str, str]:
    """sha256 of each module that a run depends on, for the key of its directory: changed code starts anew."""
    return {path: sha256_file(ROOT / path) for path in code}


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keeps a second job off the run in ``directory``. Raises RetryError (75) if another job has it."""
    if rank() != 0:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        os.register_at_fork(after_in_child=file.close)  # else the lock lasts as long as the last worker
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryError(
                f"{directory}: another job trains this very run; its result will be used: try later"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            say(f"warning: {directory}: no locks on this file system; see that no second job trains this very run")
        yield


def _stopped(title: str, stop: StopSignal, done: int, steps: int) -> RetryError:
    name = stop.name or "another rank"
    return RetryError(f"{title}: stopped by {name} at step {done} of {steps}, saved; run the same command to go on")


def _agreed(stop: StopSignal, done: int, device: torch.device) -> bool:
    """Whether any rank was told to stop, so that all leave at the same step. Ranks ask each other every tenth step,
    since the answer waits for the device."""
    if world_size() == 1:
        return bool(stop)
    if done % 10:
        return False
    return bool(sum_over_ranks(torch.tensor(float(bool(stop)), device=device)))
