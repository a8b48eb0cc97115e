"""The training loop, for teacher and student alike: steps, log, checkpoints, stop signals, ranks (layer L2).

Killed at any point it goes on from the last checkpoint, on a CPU in float32 to the same bits as an uninterrupted run of
the same world size and number of threads (a GPU's attention may add up in another order): the order of the data is a
function of the step, and a checkpoint holds the rest. The last step is saved as well, so that a finished run that is
asked for again only hands out its result.
"""

import fcntl
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn

from pipeline import checkpoint
from pipeline.config import Config
from pipeline.files import sha256_file
from pipeline.imports import ROOT
from pipeline.loader import Batch
from pipeline.optimize import OptimizerConfig, make_average, make_optimizer, make_scheduler
from pipeline.runtime import IntegrityError, RetryError, StopSignal, progress, rank, say, world_size
from pipeline.schedule import Schedule


class LoopConfig(Config):
    """Fields that fitting a teacher and training a student share; never used by itself."""

    seed: int = Field(default=0, ge=0)
    epochs: float = Field(gt=0)
    batch: int = Field(ge=2)  # B, over all ranks
    lanes: int = Field(default=1, ge=1)  # L; the world size must divide it
    window: int = Field(default=4, ge=1)  # W
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpoint_steps: int = Field(default=1000, ge=1)
    score_epochs: int = Field(default=1, ge=1)  # the last epoch is scored in any case


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

    ``batches(start, stop)`` gives this rank's batches; ``directory`` holds the checkpoints; ``score`` is asked at the end
    of every ``score_epochs``-th epoch and its values join the log row; ``observe(step, loss)`` sees every step's loss,
    at the price of a synchronisation each. Raises RetryError (75) after saving when told to stop, IntegrityError on a
    loss that is not finite (the checkpoint before it is kept).
    """
    steps, per_epoch = schedule.steps(config.epochs), schedule.steps_per_epoch()
    torch.manual_seed(config.seed + rank())  # stochastic depth and dropout; views never use it
    optimizer = make_optimizer(model, config.optimizer, config.batch)
    scheduler = make_scheduler(optimizer, config.optimizer, steps, per_epoch)
    average = make_average(model, config.optimizer)
    rows: list[Row] = []
    sums: dict[str, torch.Tensor] = {}
    start = 0
    saved = checkpoint.latest(directory)
    if saved is not None:
        start, state = saved
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.module.load_state_dict(state["average"])
        rows = state["rows"]
        sums = {name: value.to(device) * (rank() == 0) for name, value in state["sums"].items()}
        if len(state["chance"]) == world_size():
            checkpoint.restore_rng(state["chance"][rank()])
        else:
            say(
                f"{title}: saved by {len(state['chance'])} ranks, goes on with {world_size()}: same views, other rounding"
            )
        say(f"{title}: goes on from step {start} of {steps}")
    stepped: nn.Module = model
    if config.compile:
        stepped = cast(nn.Module, torch.compile(model))
    if world_size() > 1:
        stepped = nn.parallel.DistributedDataParallel(stepped, device_ids=[device] if device.type == "cuda" else None)
    autocast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
    stop = StopSignal()
    model.train()
    with progress(title, steps - start, "steps") as tick:
        for step, batch in zip(range(start, steps), batches(start, steps)):
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
            _add(sums, values, batch)
            if observe is not None:
                observe(step, float(values["loss"].detach()))
            done = step + 1
            note = ""
            if done % per_epoch == 0 or done == steps:
                rows.append(_row(sums, done, per_epoch, optimizer.param_groups[0]["lr"], title))
                if score is not None and (len(rows) % config.score_epochs == 0 or done == steps):
                    rows[-1] |= score(model)
                    model.train()
                note = "  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items() if name != "step")
                sums = {}
            stopping = _agreed(stop, done, device)
            if stopping or done == steps or done % config.checkpoint_steps == 0:
                if sums:
                    _totals(sums, done, title)  # a loss that is not finite is never saved
                _save(directory, done, model, optimizer, average, rows, sums, device)
            tick(1, note)
            if stopping and done < steps:
                raise RetryError(
                    f"{title}: stopped by {stop.name or 'another rank'} at step {done} of {steps}, saved; "
                    f"run the same command to go on"
                )
    return Trained(model, average.module.state_dict() if average is not None else None, rows)


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
        yield


def _add(sums: dict[str, torch.Tensor], values: dict[str, torch.Tensor], batch: Batch) -> None:
    one = torch.ones((), dtype=torch.float64)
    extra = {"steps": one, "samples": one * len(batch.labels), "live": one * batch.live}
    for name, value in (values | extra).items():
        value = value.detach().double()
        sums[name] = sums[name] + value if name in sums else value


def _row(sums: dict[str, torch.Tensor], done: int, per_epoch: int, lr: float, title: str) -> Row:
    """Means over the epoch and over all ranks. Raises IntegrityError when the loss is not finite."""
    total = _totals(sums, done, title)
    steps, samples, live = total.pop("steps"), total.pop("samples"), total.pop("live")
    means = {name: value / steps for name, value in total.items()}
    return {"epoch": done / per_epoch, "step": done, "lr": lr, **means, "live_fraction": live / samples}


def _totals(sums: dict[str, torch.Tensor], done: int, title: str) -> dict[str, float]:
    """Sums over all ranks. Raises IntegrityError, on every rank, when the loss is not finite."""
    totals = {name: value.clone() for name, value in sums.items()}
    if world_size() > 1:
        for name in sorted(totals):
            totals[name] = totals[name].to(totals["loss"].device)  # NCCL reduces on the GPU only
            dist.all_reduce(totals[name])
    total = {name: float(value) for name, value in totals.items()}
    if not math.isfinite(total["loss"]):
        first = done - int(total["steps"] / world_size())
        raise IntegrityError(
            f"{title}: the loss became nan or inf somewhere within steps {first}..{done - 1}; the checkpoint before it is "
            f"kept; lower optimizer.lr, raise warmup_epochs or set clip_grad"
        )
    return total


def _agreed(stop: StopSignal, done: int, device: torch.device) -> bool:
    """Whether any rank was told to stop, so that all leave at the same step. Ranks ask each other every tenth step, since
    the answer waits for the device."""
    if world_size() == 1:
        return bool(stop)
    if done % 10:
        return False
    flag = torch.tensor(float(bool(stop)), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def _save(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Any,
    rows: list[Row],
    sums: dict[str, torch.Tensor],
    device: torch.device,
) -> None:
    chance: list[Any] = [None] * world_size()
    if world_size() > 1:
        dist.all_gather_object(chance, checkpoint.rng_state())
    else:
        chance = [checkpoint.rng_state()]
    if world_size() > 1:  # running sums are per rank: keep their total, on rank 0, and zero on the others
        for name in sorted(sums):
            sums[name] = sums[name].to(device)
            dist.all_reduce(sums[name])
            if rank() != 0:
                sums[name].zero_()
    if rank() == 0:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.module.state_dict() if average is not None else None,
            "rows": rows,
            "sums": sums,
            "chance": chance,
        }
        checkpoint.save(directory, step, state)
    if world_size() > 1:
        dist.barrier()
