"""Where everything lies below ``work``: ARCHITECTURE.md's table of what is on disk, as code."""

from dataclasses import dataclass
from pathlib import Path

POOL = "work/pool"  # the work pool, where DISTIL_POOL names none


@dataclass(frozen=True)
class Work:
    """The folder ``root``. ``shards``, ``caches``: copies of its shards and published caches that are read instead of them, None
    for none."""

    root: Path
    shards: Path | None = None
    caches: Path | None = None

    def split(self, name: str) -> Path:
        return (self.shards or self.root / "shards") / name

    def test_set(self, name: str) -> Path:
        return self.root / "test_sets" / name

    def teacher(self, name: str) -> Path:
        return self.root / "teachers" / name

    def teacher_weights(self, name: str) -> Path:
        return self.teacher(name) / "model.safetensors"

    def cache(self, name: str) -> Path:
        return (self.caches or self.root / "caches") / name

    def student(self, name: str) -> Path:
        return self.root / "students" / name

    def answers(self, name: str) -> Path:
        """A teacher's, on each test set."""
        return self.root / "answers" / name

    def scores(self, name: str) -> Path:
        """A student's, with its answers on each test set."""
        return self.root / "eval" / name
