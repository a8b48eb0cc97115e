"""Answers of no model, by a formula, for tests of what is computed from answers."""

import numpy as np
import torch

from pipeline.base.scores import ranks
from pipeline.evaluation.answers import Answers


def answered(samples: int, classes: int, seed: int, heads: int = 2, model: str = "m", good: float = 2.0) -> Answers:
    """Normal scores, of which the label's is raised by ``good``; the labels are the same for every seed."""
    chance = np.random.default_rng(seed)
    labels = torch.arange(samples) * 7 % classes
    scores, names = {}, ("class", "distillation")[:heads]
    for name in names:
        drawn = torch.from_numpy(chance.standard_normal((samples, classes), np.float32))
        drawn[torch.arange(samples), labels] += good
        scores[name] = drawn.half().float()  # so that ranks and logits tell the same
    if heads == 2:
        one, other = scores["class"], scores["distillation"]
        scores |= {"fused": one.softmax(1) + other.softmax(1), "mean": (one + other) / 2}
    recipe = {"size": 8}
    identity = {
        "model": model,
        "shards": ["a"],
        "classes": [f"class {c}" for c in range(classes)],
        "recipe": recipe,
    }
    return Answers(
        identity,
        labels.numpy().astype(np.uint16),
        np.array(["0123456789abcdef"]),
        {name: scores[name].half().numpy() for name in names},
        {name: ranks(of, labels).numpy().astype(np.uint16) for name, of in scores.items()},
        {name: of.argmax(1).numpy().astype(np.uint16) for name, of in scores.items()},
    )
