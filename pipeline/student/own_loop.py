"""A run for a training loop of one's own: the batches, the loss and the proofs of ``stages.train``, without its loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.cache.identity import require_identity
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Block, Shards
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import workers as all_workers
from pipeline.runtime.work import Work
from pipeline.student import train
from pipeline.student.inputs import Inputs, NamedStudent, open_inputs
from pipeline.student.model import Heads, Student
from pipeline.training.batches import Batch, Loader
from pipeline.views.choose import Targets
from pipeline.views.validation import validation


@dataclass(frozen=True)
class Run:
    """A student of params.yaml with all that it learns from, opened and checked as ``stages.train`` does."""

    student: NamedStudent
    inputs: Inputs
    loader: Loader

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.loader.schedule.steps(self.student.training.epochs)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.inputs.train.classes

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of steps ``start .. stop - 1`` (default: to the end), on the device, with ``images`` float32
        (B, 3, R, R), ``labels``, ``partner_labels``, ``lam`` and the teacher's ``logits`` and ``hard``: the bits of
        ``stages.train``. Raises IntegrityError at a view that the teacher did not see."""
        return self.loader.batches(start, self.steps if stop is None else stop)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's validation images float32 (n, 3, R, R) and labels int64 (n,), on the device."""
        split = validation(self.inputs.val, self.student.recipe, self.loader.device, self.loader.workers)
        return ((block.images, block.labels) for block in split)

    def loss(self, answers: Heads | Tensor, batch: Batch) -> Tensor:
        """The loss that params.yaml asks for, of logits float (B, C) or of both heads; a scalar."""
        heads = answers if isinstance(answers, Heads) else Heads(answers)
        return train.make_loss(self.student.training, self.student.config, len(self.classes))(heads, batch).total

    def model(self) -> Student:
        """The student of params.yaml as ``stages.train`` starts it, on the device: images -> Heads."""
        return train.make_student(self.student, self.inputs)


def open_run(
    params: str | Path = "params.yaml", *, student: str, work: str | Path = "work", workers: int | None = None
) -> Run:
    """Opens the student named ``student`` for a loop of one's own, below ``work``; ``workers``: processes that draw, as
    DISTIL_WORKERS. Raises what ``stages.train`` refuses: UsageError, IdentityError, IntegrityError."""
    named = NamedStudent.load(Path(params), student)
    inputs = open_inputs(named, Work(Path(work)))
    return Run(named, inputs, train.make_loader(named, inputs, all_workers() if workers is None else workers))


@dataclass(frozen=True)
class KeyedRows:
    """The rows of a cache by sample and view; whole blocks are read and compared with their digests, never single rows."""

    cache: Cache
    shards: Shards
    places: dict[str, tuple[Block, int]]

    @classmethod
    def of(cls, cache: Cache, shards: Shards) -> "KeyedRows":
        """Raises IdentityError for other shards than the cache's."""
        expected = cache.identity | {"shards": list(shards.hashes)}
        require_identity(cache, expected, cache.path)
        blocks = ((block, shards.keys(block)) for block in shards.blocks)
        return cls(cache, shards, {key: (block, row) for block, keys in blocks for row, key in enumerate(keys)})

    def __getitem__(self, key_and_view: tuple[str, int]) -> Targets:
        """``hard`` uint16 () and ``logits`` float32 (C,) (None for a cache of hard labels) of sample and view. Raises
        UsageError for what the cache does not hold, IntegrityError for damaged rows."""
        key, view = key_and_view
        if key not in self.places:
            raise UsageError(f"{self.shards.root}: there is no sample {key!r}; its keys are those of index.tsv")
        block, row = self.places[key]
        found = self.cache.read(block, view)
        return Targets(found.hard[0, row], found.logits[0, row] if found.logits is not None else None)


def open_rows(path: str | Path, shards: str | Path) -> KeyedRows:
    """The rows of the cache in ``path`` by (sample key, view); ``shards``: the folder of the training split that it labels.
    Raises UsageError, IdentityError, IntegrityError."""
    return KeyedRows.of(open_cache(Path(path)), Shards.open(Path(shards)))
