"""From a drawn visit to the teacher's logits: the one labelling function of precompute and of the live teacher.

The teacher runs at one constant shape (a padded block), because only equal shapes give equal bits: measured, a short
batch gives 99.2 % bit-equal rows and a batch of one none.
"""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch

from pipeline.teacher.model import Teacher
from pipeline.views.drawn import DrawnVisit
from pipeline.views.finish import finish
from pipeline.views.recipe import Recipe


def ask_visit(teacher: Teacher, recipe: Recipe, drawn: DrawnVisit) -> Callable[[], torch.Tensor]:
    """Starts the teacher on a visit; the result waits for its answers and returns them as ``label_visit`` does. On a GPU the
    caller can read, draw and start the next visit meanwhile."""
    plan, on_gpu = drawn.plan.to(teacher.device), teacher.device.type == "cuda"
    views = enumerate(drawn.pixels)
    started = [teacher.start(finish(pixels.to(teacher.device), plan.view(i), recipe)) for i, pixels in views]
    sound = torch.stack([one for _, one in started]).all().to("cpu", non_blocking=on_gpu)
    logits = torch.stack([one for one, _ in started]).to("cpu", non_blocking=on_gpu)
    copied = torch.cuda.current_stream(teacher.device).record_event() if on_gpu else None

    def answers() -> torch.Tensor:
        if copied is not None:
            copied.synchronize()
        if not sound:
            teacher.refuse(logits.flatten(0, 1))
        return logits

    return answers


def label_visit(teacher: Teacher, recipe: Recipe, drawn: DrawnVisit) -> torch.Tensor:
    """The teacher's logits on every mixed, erased, normalised view: float32 (r, n, C) on the CPU.

    Raises IntegrityError if a logit is not finite.
    """
    return ask_visit(teacher, recipe, drawn)()


def label_visits(
    teacher: Teacher, recipe: Recipe, visits: Iterator[DrawnVisit]
) -> Iterator[tuple[DrawnVisit, np.ndarray]]:
    """Each visit with its logits, float32 (r, n, C). The teacher starts on the next visit before the answers on one are
    waited for, so that a GPU has work meanwhile; of a visit that comes out, the pixels may be overwritten."""
    asked: deque[tuple[DrawnVisit, Callable[[], torch.Tensor]]] = deque()
    for drawn in visits:
        asked.append((drawn, ask_visit(teacher, recipe, drawn)))
        if len(asked) > 1:
            before, answers = asked.popleft()
            yield before, answers().numpy()
    for drawn, answers in asked:
        yield drawn, answers().numpy()
