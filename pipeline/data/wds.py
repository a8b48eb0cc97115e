"""webdataset's tar reader and writer, imported without torch: webdataset takes torch where it is there, for loaders of
its own that are not used here, and torch takes seconds to import."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _no_torch() -> Iterator[None]:
    """Makes ``import torch`` fail inside the block, as where it is not installed; nothing where it is imported already."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # how Python marks a module that can't be imported
    try:
        yield
    finally:
        del sys.modules["torch"]


with _no_torch():
    from webdataset import TarWriter
    from webdataset.tariterators import group_by_keys, tar_file_expander

__all__ = ["TarWriter", "group_by_keys", "tar_file_expander"]
