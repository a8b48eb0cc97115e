"""How large and how fast a model is."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.runtime.machine import median_seconds


def parameters(model: nn.Module) -> int:
    """The number of a model's parameters, buffers not counted."""
    return sum(value.numel() for value in model.parameters())


def gflops(call: Callable[[], object]) -> float:
    """GFLOP of a call, one multiply-add as two, attention counted whole (papers often give multiply-adds: half of it)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def images_per_second(answer: Callable[[Tensor], object], images: Tensor) -> float:
    """How many images a warm forward pass answers per second: one batch that lies on the device, without drawing."""
    return len(images) / median_seconds(lambda: answer(images), images.device)
