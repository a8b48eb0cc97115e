"""From a drawn visit to the teacher's logits: the one labelling function of precompute and of the live teacher.

The teacher runs at one constant shape (a padded block), because only equal shapes give equal bits: measured, a short
batch gives 99.2 % bit-equal rows and a batch of one none.
"""

import torch

from pipeline.teacher.model import Teacher
from pipeline.views.drawn import DrawnVisit
from pipeline.views.finish import finish
from pipeline.views.recipe import Recipe


def label_visit(teacher: Teacher, recipe: Recipe, drawn: DrawnVisit) -> torch.Tensor:
    """The teacher's logits on every mixed, erased, normalised view: float32 (r, n, C) on the CPU.

    Raises IntegrityError if a logit is not finite.
    """
    logits, plan = [], drawn.plan.to(teacher.device)
    for view, pixels in enumerate(drawn.pixels):
        images = finish(pixels.to(teacher.device), plan.view(view), recipe)
        logits.append(teacher.predict(images).cpu())
    return torch.stack(logits)
