"""Optimiser, learning-rate schedule and weight average, all timm's, from one config.

The defaults are DeiT's (facebookresearch/deit main.py). Decided differently from its code, on purpose: the rate is set
for every step and not once an epoch (DeiT's first two epochs both run at the warm-up rate), and the average of the
weights is evaluated as well as stored.
"""

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from pipeline.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig, batch: int) -> torch.optim.Optimizer:
    """AdamW (eps 1e-8) or SGD (Nesterov, momentum 0.9); biases, norms and timm's ``no_weight_decay`` are not
    decayed."""
    return create_optimizer_v2(
        model,
        opt="adamw" if config.name == "adamw" else "nesterov",
        lr=config.lr * batch / 512,
        weight_decay=config.weight_decay,
        momentum=0.9,
        foreach=True,
    )


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up, then half a cosine down to ``min_lr`` at the last step; call ``step_update(step)``."""
    warmup = min(int(config.warmup_epochs * steps_per_epoch), steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=steps,
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=False,
    )


def make_average(model: nn.Module, config: OptimizerConfig) -> ModelEmaV3 | None:
    """Exponential moving average of the weights and buffers, updated after every step."""
    return ModelEmaV3(model, decay=config.ema_decay) if config.ema_decay is not None else None
