"""The test sets of a run, opened: their images, and the recipe under which a model sees them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.data.shards import Shards
from pipeline.data.test_sets import VAL, SetConfig, real_labels
from pipeline.evaluation.answers import Answers
from pipeline.evaluation.scores import wilson
from pipeline.runtime.work import Work
from pipeline.views.recipe import Recipe, evaluation


def open_sets(work: Work, configs: Mapping[str, SetConfig], recipe: Recipe) -> dict[str, tuple[Shards, Recipe]]:
    """Images and recipe by name: the validation split, and each test set that needs answers of its own. Raises UsageError
    where a set is not packed."""
    val = Shards.open(work.split(VAL))
    found = {VAL: (val, evaluation(recipe))}
    for name, config in configs.items():
        if not config.same_views:
            split = val if config.source == VAL else Shards.open(work.test_set(name) / VAL)
            found[name] = (split, seen_under(config, recipe))
    return found


def seen_under(config: SetConfig, recipe: Recipe) -> Recipe:
    """The evaluation recipe with the set's own crop and interpolation."""
    own = {"crop_fraction": config.crop_fraction, "interpolation": config.interpolation}
    changed = {name: value for name, value in own.items() if value is not None}
    return Recipe.model_validate(evaluation(recipe).model_dump() | changed)


def on_real_labels(answers: Answers, split: Shards) -> dict[str, Any]:
    """Percent right by head with ImageNet-ReaL's labels: an answer is right if it is one of them. ``samples``: how many
    have such labels, the others do not count."""
    labels = real_labels(split)
    counts = np.array([bool(those) for those in labels])
    heads = {}
    for head in answers.heads:
        right = np.array([int(answer) in those for answer, those in zip(answers.hard[head], labels)])[counts]
        heads[head] = {"top1": 100.0 * float(right.mean()), "interval": list(wilson(int(right.sum()), len(right)))}
    return {"samples": int(counts.sum()), "best": answers.best, "heads": heads}
