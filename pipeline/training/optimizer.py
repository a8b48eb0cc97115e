"""Optimiser, learning-rate schedule and weight average, all timm's, from one config.

The defaults are DeiT's (facebookresearch/deit main.py). Deliberate differences: the rate is set at every step instead of
every epoch (DeiT's first two epochs both run at the warm-up rate, and a resumed run shifts one epoch's), and the average of
the weights is evaluated, too (DeiT only stores it).
"""

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from pipeline.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig, batch: int) -> torch.optim.Optimizer:
    """AdamW or Adam (betas 0.9 and 0.999, eps 1e-8) or SGD with Nesterov's momentum, which is timm's and so DeiT's
    ``sgd``; biases, norms and timm's ``no_weight_decay`` are not decayed."""
    return create_optimizer_v2(
        model,
        opt={"adamw": "adamw", "adam": "adam", "sgd": "nesterov"}[config.name],
        lr=config.scaled_lr(batch),
        weight_decay=config.weight_decay,
        momentum=config.momentum,
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
    if config.ema_decay is None:
        return None
    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=config.ema_warmup)


def update_average(average: ModelEmaV3, model: nn.Module, config: OptimizerConfig, step: int) -> None:
    """Adds the weights after step ``step``, counted from 0, to the average. timm counts from 1, and gets the step for the
    warm-up only, since it would copy the weights at the first."""
    average.update(model, step=step + 1 if config.ema_warmup else None)
