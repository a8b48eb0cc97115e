"""One step of training: the average gradient of a batch, in parts where asked, unscaled, clipped; then the update."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any, cast

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.base.timm_models import autocast_type
from pipeline.runtime.errors import UsageError
from pipeline.runtime.libraries import require_compiler
from pipeline.runtime.machine import world_size
from pipeline.runtime.progress import say
from pipeline.training.batches import Batch
from pipeline.training.config import LoopConfig
from pipeline.training.optimizer import make_optimizer

Compute = Callable[[nn.Module, Batch], dict[str, torch.Tensor]]  # scalars by name; "loss" is the one to minimise


class Stepper:
    """Holds a model's optimiser and, for fp16, the scale of its loss; call it with a batch to take a step.

    ``model`` is trained in place, compiled and distributed as ``config`` and the world say.
    """

    def __init__(self, model: nn.Module, config: LoopConfig, device: torch.device) -> None:
        model = _with_batch_norms(model, config, device)
        self.model, self.config, self.device = model, config, device
        self.optimizer = make_optimizer(model, config.optimizer, config.batch)
        # off, it hands everything through and has an empty state
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        if config.compile:
            require_compiler("compile")
        self.stepped = cast(nn.Module, torch.compile(model)) if config.compile else model
        if world_size() > 1:
            ids = [device] if device.type == "cuda" else None
            self.stepped = nn.parallel.DistributedDataParallel(self.stepped, device_ids=ids)
        dtype = autocast_type(config.precision)
        self.autocast: Any = torch.autocast(device.type, dtype) if dtype is not None else nullcontext()

    def __call__(self, compute: Compute, batch: Batch) -> dict[str, torch.Tensor]:
        """The values of ``compute`` (means over the batch) and ``grad_norm``, the norm of the gradient before clipping;
        not finite where an fp16 step was skipped. All are scalars on the device: nothing waits for it."""
        count = self.config.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, torch.Tensor] = {}
        for number, part in enumerate(parts(batch, count)):
            with self._alone(number < count - 1):
                with self.autocast:
                    values = compute(self.stepped, part)
                loss = values["loss"] if count == 1 else values["loss"] / count
                self.scaler.scale(loss).backward()
            for name, value in values.items():
                value = value.detach() if count == 1 else value.detach() / count
                means[name] = means[name] + value if name in means else value
        self.scaler.unscale_(self.optimizer)  # clipped and noted is the gradient, not the scaled one
        norm = self._clip()
        self.scaler.step(self.optimizer)  # left out where the scaled gradient was not finite
        self.scaler.update()
        return means | {"grad_norm": norm}

    def _alone(self, more: bool) -> Any:
        """Ranks exchange gradients once a step, with its last part."""
        distributed = isinstance(self.stepped, nn.parallel.DistributedDataParallel)
        return cast(Any, self.stepped).no_sync() if more and distributed else nullcontext()

    @torch.no_grad()
    def _clip(self) -> torch.Tensor:
        most = self.config.optimizer.clip_grad
        if most is not None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), most)
        return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])


def _with_batch_norms(model: nn.Module, config: LoopConfig, device: torch.device) -> nn.Module:
    """``model`` whose batch norms take their statistics as ``config.sync_bn`` says, in place. Raises UsageError on CPUs."""
    if world_size() == 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return model
    if not config.sync_bn:
        rows = config.batch // world_size() // config.accumulate
        say(
            f"warning: the model's batch norms see {rows} of a step's {config.batch} rows on each rank, so another number of "
            f"ranks trains another model; sync_bn: true lets them see all, on NVIDIA GPUs"
        )
        return model
    if device.type == "cpu":
        raise UsageError("sync_bn: torch has no such batch norm on CPUs; set it to false, or start one process")
    return cast(nn.Module, convert_sync_batchnorm(model))


def share_buffers(*models: nn.Module | None) -> None:
    """Every rank takes over the first one's buffers, since batch norms count on each rank apart."""
    for buffer in (buffer for model in models if model is not None for buffer in model.buffers()):
        if world_size() > 1:
            torch.distributed.broadcast(buffer, 0)


def parts(batch: Batch, count: int) -> Iterator[Batch]:
    """``batch`` in ``count`` parts of equally many rows, which a loss that is a mean over rows may be averaged over."""
    if count == 1:
        yield batch
        return
    rows = len(batch.labels) // count
    assert rows * count == len(batch.labels), "LoopConfig refuses any other batch"
    whole = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {name: value for name, value in whole.items() if isinstance(value, torch.Tensor)}
    for first in range(0, len(batch.labels), rows):
        fewer: Any = {name: value[first : first + rows] for name, value in tensors.items()}
        yield replace(batch, **fewer)


@contextmanager
def tensor_float32(on: bool) -> Iterator[None]:
    """Float32 products and convolutions in TF32 on NVIDIA GPUs; off, torch's settings stay. A teacher sets its own precision
    and ignores this."""
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv) if on else ()
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "tf32"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
