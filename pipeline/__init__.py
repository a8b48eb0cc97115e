"""Offline knowledge distillation of vision transformers: a cached run is the live run.

What a training loop or a notebook of one's own needs is opened here; these names are kept:

    run = open_run("params.yaml", student="soft")   # run.batches(), run.loss(), run.validation(), run.model(), run.steps
    rows = open_rows("work/caches/digits", "work/shards/train")   # rows[key, view].logits
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.student.own_loop import open_rows as open_rows
    from pipeline.student.own_loop import open_run as open_run

__all__ = ["open_rows", "open_run"]


def __getattr__(name: str) -> Any:
    """Imported when asked for, since every stage imports this package and few need torch."""
    if name in __all__:
        return getattr(import_module("pipeline.student.own_loop"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
