"""What a checkpoint of a run holds, and the sums of the epoch that it is in."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.base.weights import require_finite
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.machine import from_all_ranks, rank, sum_over_ranks, world_size
from pipeline.runtime.progress import say
from pipeline.training import checkpoint
from pipeline.training.batches import Batch
from pipeline.training.step import Stepper

Row = dict[str, float]
_ROW, _SUMS = {"epoch", "step", "lr", "loss", "live_fraction"}, {"loss", "steps", "samples", "live"}
_MOMENTS = {"adamw": {"exp_avg", "exp_avg_sq"}, "adam": {"exp_avg", "exp_avg_sq"}, "sgd": {"momentum_buffer"}}


@dataclass
class State:
    """What a checkpoint in ``directory`` holds besides the step. ``sums``: this rank's sums of the epoch so far."""

    title: str
    directory: Path
    stepper: Stepper
    average: Any  # timm's ModelEmaV3, or None
    rows: list[Row] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def restore(self) -> int:
        """Loads the newest whole checkpoint, and returns its step; 0 if there is none. Raises UsageError, on every rank, if
        the ranks found different steps."""
        step, state = checkpoint.latest(self.directory, self._take) or (0, None)
        steps = from_all_ranks(step)
        if len(set(steps)) > 1:
            raise UsageError(
                f"{self.directory}: the ranks found checkpoints of different steps, {steps}; DISTIL_POOL must be one directory "
                f"that all nodes share"
            )
        if state is None:
            return 0
        if (ranks := len(state["chance"])) != world_size():
            say(f"{self.title}: saved by {ranks} ranks, goes on with {world_size()}: same views, other rounding")
        return step

    def _take(self, state: dict[str, Any]) -> None:
        """Takes over a checkpoint's state. Raises, whatever torch raises, for one that is not of this run or not finite."""
        model, average = self.stepper.model, self.average.module if self.average is not None else None
        self._require_ours(state)
        for made, name in ((model, "model"), (average, "average")):
            if made is not None:
                made.load_state_dict(state[name])
                require_finite(made.state_dict(), name)
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.rows = state["rows"]
        self.sums = {name: value.to(self.stepper.device) * (rank() == 0) for name, value in state["sums"].items()}
        if len(state["chance"]) == world_size():
            checkpoint.restore_rng(state["chance"][rank()])

    def _require_ours(self, state: dict[str, Any]) -> None:
        """Raises ValueError, or what a wrong type gives, for what torch takes and stumbles over in a later step."""
        rows, sums = state["rows"], state["sums"]
        if not all(row.keys() >= _ROW and all(isinstance(n, int | float) for n in row.values()) for row in rows):
            raise ValueError("a row of its log is none")
        if not (rows or sums) or (sums and not sums.keys() >= _SUMS) or any(value.dim() for value in sums.values()):
            raise ValueError("its rows or the sums of its epoch are missing")
        known = self.stepper.optimizer.param_groups
        moved = _MOMENTS[self.stepper.config.optimizer.name]
        parameters = [parameter for group in known for parameter in group["params"]]
        if [group.keys() for group in state["optimizer"]["param_groups"]] != [group.keys() for group in known]:
            raise ValueError("its optimizer has other groups")
        for index, moments in state["optimizer"]["state"].items():
            if not moved <= moments.keys() or any(moments[name].shape != parameters[index].shape for name in moved):
                raise ValueError(f"its optimizer does not fit weight {index}")

    def add(self, values: dict[str, torch.Tensor], batch: Batch) -> None:
        """Adds the ``values`` of a step. A step that fp16's scaling skipped is counted, and its gradient's norm left out."""
        one = torch.ones((), dtype=torch.float64)
        extra = {"steps": one, "samples": one * len(batch.labels), "live": one * batch.live}
        if self.stepper.scaler.is_enabled():
            taken = torch.isfinite(values["grad_norm"])
            extra |= {"grad_norm": torch.where(taken, values["grad_norm"], 0.0), "skipped": ~taken}
        for name, value in (values | extra).items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def end_epoch(self, done: int, per_epoch: int) -> Row:
        """Means over the epoch and over all ranks, as a new row. Raises IntegrityError when the loss is not finite."""
        total = self._totals(done)
        steps, samples, live = total.pop("steps"), total.pop("samples"), total.pop("live")
        scaled = {"skipped": total.pop("skipped") / world_size()} if "skipped" in total else {}
        if scaled:  # the mean norm of the steps that were taken
            total["grad_norm"] *= steps / max(1.0, steps - scaled["skipped"] * world_size())
        means = {name: value / steps for name, value in total.items()} | scaled
        lr = self.stepper.optimizer.param_groups[0]["lr"]
        self.rows.append({"epoch": done / per_epoch, "step": done, "lr": lr, **means, "live_fraction": live / samples})
        self.sums = {}
        return self.rows[-1]

    def save(self, step: int) -> None:
        """Writes a checkpoint. Raises IntegrityError, on every rank, if the loss or the weights are not finite: one bad
        gradient makes the weights nan before a loss shows it."""
        totals = self._totals(step) if self.sums else {}
        if not all(bool(torch.isfinite(value).all()) for value in self.stepper.model.state_dict().values()):
            raise _diverged(f"{self.title}: weights became nan or inf by step {step - 1}")
        chance = from_all_ranks(checkpoint.rng_state())
        if rank() == 0:
            state = {
                "model": self.stepper.model.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
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
            total[name] = float(sum_over_ranks(self.sums[name].to(self.stepper.device)))  # NCCL reduces on the GPU only
        if not math.isfinite(total["loss"]):
            first = done - int(total["steps"] / world_size())
            raise _diverged(f"{self.title}: the loss became nan or inf somewhere within steps {first}..{done - 1}")
        return total


def _diverged(what: str) -> IntegrityError:
    return IntegrityError(f"{what}; lower optimizer.lr, raise warmup_epochs or set clip_grad")
