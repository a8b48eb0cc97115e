"""How large and how fast a model is."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """The number of a model's parameters, buffers not counted."""
    return sum(value.numel() for value in model.parameters())


def gflops(call: Callable[[], object]) -> float:
    """GFLOP of a call, one multiply-add as two, attention counted whole (papers often give multiply-adds: half of it)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def images_per_second(answer: Callable[[Tensor], object], images: Tensor, rounds: int = 5) -> float:
    """Median of ``rounds`` warm forward passes of one batch that lies on the device, without drawing."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        answer(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        times.append(time.perf_counter() - start)
    return len(images) / statistics.median(times[1:])  # the first call warms up
