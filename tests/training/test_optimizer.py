"""Optimisers and the average of the weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.runtime.config import read_yaml, validate
from pipeline.training.config import OptimizerConfig, TrainConfig
from pipeline.training.optimizer import make_average, make_optimizer, update_average


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_optimisers_are_torchs_with_the_rate_and_the_momentum_of_the_config(name: str, kind: str) -> None:
    config = validate(OptimizerConfig, {"name": name, "lr": 1e-3, "scale_lr": False, "momentum": 0.7}, "optimizer")
    made = make_optimizer(nn.Linear(3, 2), config, 64)
    assert type(made).__name__ == kind
    group = made.param_groups[0]
    assert group["lr"] == 1e-3
    assert (group["momentum"], group["nesterov"]) == (0.7, True) if name == "sgd" else group["betas"] == (0.9, 0.999)


def test_the_averages_warm_up_starts_from_the_trained_weights() -> None:
    config = OptimizerConfig(ema_decay=0.9999, ema_warmup=True)
    model = nn.Linear(1, 1, bias=False)
    average, expected = make_average(model, config), 0.0
    assert average is not None
    for step in range(20):
        with torch.no_grad():
            model.weight.fill_(float(step * step))
        update_average(average, model, config, step)
        decay = 1 - (1 + step) ** (-2 / 3)
        expected = decay * expected + (1 - decay) * step * step
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["digits", "photos", "cifar"])
def test_the_average_of_a_short_training_follows_its_weights(name: str) -> None:
    """90 steps under the shipped decay: the average is of the last weights, not of the first ones."""
    how = validate(TrainConfig, read_yaml(Path("configs") / "training" / f"{name}.yaml"), name).optimizer
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = make_average(model, how)
    assert average is not None
    for step in range(90):
        nn.init.constant_(model.weight, float(step >= 10))  # random weights in the first steps, then trained ones
        update_average(average, model, how, step)
    assert average.module.weight.item() > 0.95
    assert how.ema_decay is not None and 1 - how.ema_decay**80 < 0.95  # without the warm-up it would not
