"""The training loop, for teacher and student alike: steps, log, checkpoints, stop signals, ranks.

Killed at any point it goes on from the last checkpoint, on a CPU in float32 to the same bits as an uninterrupted run of
the same world size and number of threads (a GPU's attention may add up in another order): the order of the data is a
function of the step, and a checkpoint holds the rest. The last step is saved as well, so that a finished run that is
asked for again only hands out its result.
"""

import errno
import fcntl
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from pipeline.base.files import sha256_file
from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import IntegrityError, RetryError, UsageError
from pipeline.runtime.machine import StopSignal, rank, world_size
from pipeline.runtime.progress import progress, say
from pipeline.training import checkpoint
from pipeline.training.batches import Batch
from pipeline.training.config import LoopConfig
from pipeline.training.optimizer import make_average, make_optimizer, make_scheduler
from pipeline.training.schedule import Schedule

Row = dict[str, float]
Compute = Callable[[nn.Module, Batch], dict[str, torch.Tensor]]  # scalars by name; "loss" is the one to minimise


@dataclass(frozen=True)
class Trained:
    """``average`` is the state of the weights' moving average (None if off); one log row per epoch."""

    model: nn.Module
    average: dict[str, torch.Tensor] | None
    rows: list[Row]


def run(
    title: str,
    model: nn.Module,
    compute: Compute,
    config: LoopConfig,
    schedule: Schedule,
    batches: Callable[[int, int], Iterator[Batch]],
    directory: Path,
    device: torch.device,
    score: Callable[[nn.Module], Row] | None = None,
    observe: Callable[[int, float], None] | None = None,
) -> Trained:
    """Trains ``model`` in place for ``schedule.steps(config.epochs)`` steps.

    ``batches(start, stop)`` gives this rank's batches; ``directory`` holds the checkpoints; ``score`` is asked at the
    end of every ``score_epochs``-th epoch and its values join the log row; ``observe(step, loss)`` sees every step's
    loss, at the price of a synchronisation each. Raises RetryError (75) after saving when told to stop, IntegrityError
    on a loss or weights that are not finite.
    """
    steps, per_epoch = schedule.steps(config.epochs), schedule.steps_per_epoch()
    # Optimiser, schedule and average, from the newest checkpoint on.
    torch.manual_seed(config.seed + rank())  # stochastic depth and dropout; views never use it
    optimizer = make_optimizer(model, config.optimizer, config.batch)
    scheduler = make_scheduler(optimizer, config.optimizer, steps, per_epoch)
    average = make_average(model, config.optimizer)
    state = _State(title, directory, model, optimizer, average, device)
    start = state.restore()
    if start:
        say(f"{title}: goes on from step {start} of {steps}")
    # The model as it is stepped: compiled, spread over ranks, in its precision.
    stepped = cast(nn.Module, torch.compile(model)) if config.compile else model
    if world_size() > 1:
        stepped = nn.parallel.DistributedDataParallel(stepped, device_ids=[device] if device.type == "cuda" else None)
    autocast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
    stop = StopSignal()
    model.train()
    with progress(title, steps - start, "steps") as tick:
        for step, batch in zip(range(start, steps), batches(start, steps)):
            # One step.
            scheduler.step_update(step)
            with autocast:
                values = compute(stepped, batch)
            optimizer.zero_grad(set_to_none=True)
            values["loss"].backward()
            if config.optimizer.clip_grad is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_grad)
            optimizer.step()
            if average is not None:
                average.update(model)
            state.add(values, batch)
            if observe is not None:
                observe(step, float(values["loss"].detach()))
            # The end of an epoch: a row of the log, and a score.
            done, note = step + 1, ""
            if done % per_epoch == 0 or done == steps:
                row = state.end_epoch(done, per_epoch)
                if score is not None and (len(state.rows) % config.score_epochs == 0 or done == steps):
                    row |= score(model)
                    model.train()
                note = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            # Save where it is due, and stop where told to.
            stopping = _agreed(stop, done, device)
            if stopping or done == steps or done % config.checkpoint_steps == 0:
                state.save(done)
            tick(1, note)
            if stopping and done < steps:
                raise RetryError(
                    f"{title}: stopped by {stop.name or 'another rank'} at step {done} of {steps}, saved; "
                    f"run the same command to go on"
                )
    return Trained(model, average.module.state_dict() if average is not None else None, state.rows)


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


@dataclass
class _State:
    """What a checkpoint in ``directory`` holds besides the step. ``sums``: this rank's sums of the epoch so far."""

    title: str
    directory: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Any  # timm's ModelEmaV3, or None
    device: torch.device
    rows: list[Row] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def restore(self) -> int:
        """Takes over the newest whole checkpoint, and returns its step; 0 where there is none. Raises UsageError, on
        every rank, if the ranks found different steps."""
        step, state = checkpoint.latest(self.directory) or (0, None)
        steps = _from_all_ranks(step)
        if len(set(steps)) > 1:
            raise UsageError(
                f"{self.directory}: the ranks found checkpoints of different steps, {steps}; DISTIL_POOL must be one directory "
                f"that all nodes share"
            )
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.rows = state["rows"]
        self.sums = {name: value.to(self.device) * (rank() == 0) for name, value in state["sums"].items()}
        if len(state["chance"]) == world_size():
            checkpoint.restore_rng(state["chance"][rank()])
        else:
            ranks = len(state["chance"])
            say(f"{self.title}: saved by {ranks} ranks, goes on with {world_size()}: same views, other rounding")
        return step

    def add(self, values: dict[str, torch.Tensor], batch: Batch) -> None:
        one = torch.ones((), dtype=torch.float64)
        extra = {"steps": one, "samples": one * len(batch.labels), "live": one * batch.live}
        for name, value in (values | extra).items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def end_epoch(self, done: int, per_epoch: int) -> Row:
        """Means over the epoch and over all ranks, as a new row. Raises IntegrityError when the loss is not finite."""
        total = self._totals(done)
        steps, samples, live = total.pop("steps"), total.pop("samples"), total.pop("live")
        means = {name: value / steps for name, value in total.items()}
        lr = self.optimizer.param_groups[0]["lr"]
        self.rows.append({"epoch": done / per_epoch, "step": done, "lr": lr, **means, "live_fraction": live / samples})
        self.sums = {}
        return self.rows[-1]

    def save(self, step: int) -> None:
        """Writes a checkpoint. Raises IntegrityError, on every rank, before a loss or weights that are not finite are
        saved: one bad gradient makes the weights nan before any loss shows it."""
        totals = self._totals(step) if self.sums else {}
        if not all(bool(torch.isfinite(value).all()) for value in self.model.parameters()):
            raise _diverged(f"{self.title}: weights became nan or inf by step {step - 1}")
        chance = _from_all_ranks(checkpoint.rng_state())
        if rank() == 0:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.module.state_dict() if self.average is not None else None,
                "rows": self.rows,
                "sums": {name: torch.tensor(value, dtype=torch.float64) for name, value in totals.items()},
                "chance": chance,
            }
            checkpoint.save(self.directory, step, state)
        if world_size() > 1:
            dist.barrier()

    def _totals(self, done: int) -> dict[str, float]:
        """Sums over all ranks. Raises IntegrityError, on every rank, when the loss is not finite."""
        total = {}
        for name in sorted(self.sums):
            value = self.sums[name].clone()
            if world_size() > 1:
                value = value.to(self.device)  # NCCL reduces on the GPU only
                dist.all_reduce(value)
            total[name] = float(value)
        if not math.isfinite(total["loss"]):
            first = done - int(total["steps"] / world_size())
            raise _diverged(f"{self.title}: the loss became nan or inf somewhere within steps {first}..{done - 1}")
        return total


def _from_all_ranks(value: Any) -> list[Any]:
    """Every rank's ``value``, in the order of the ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def _diverged(what: str) -> IntegrityError:
    return IntegrityError(f"{what}; lower optimizer.lr, raise warmup_epochs or set clip_grad")


def _agreed(stop: StopSignal, done: int, device: torch.device) -> bool:
    """Whether any rank was told to stop, so that all leave at the same step. Ranks ask each other every tenth step,
    since the answer waits for the device."""
    if world_size() == 1:
        return bool(stop)
    if done % 10:
        return False
    flag = torch.tensor(float(bool(stop)), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
