"""A visit and its targets as plain data: one block in r consecutive views is the unit of reading, drawing and labelling."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Targets:
    """A teacher's answers on r views of a block's n samples: hard uint16 (r, n), logits float32 (r, n, C)."""

    hard: np.ndarray
    logits: np.ndarray | None


@dataclass(frozen=True)
class Visit:
    """Block ``block`` in views ``first_view .. first_view + repeats - 1``; ``cycle`` counts passes over all blocks."""

    block: int
    first_view: int
    repeats: int
    cycle: int
