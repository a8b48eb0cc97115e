"""What a teacher answers on a test set, at its own size: the same kind of file as a student's answers."""

from pathlib import Path

from pipeline.data.shards import Shards
from pipeline.evaluation.answering import answers_of
from pipeline.evaluation.answers import Answers
from pipeline.runtime.machine import device as pick_device
from pipeline.teacher.config import NamedTeacher
from pipeline.teacher.model import Teacher
from pipeline.views.recipe import Recipe


def teacher_answers(teacher: NamedTeacher, weights: Path, split: Shards, recipe: Recipe, workers: int) -> Answers:
    """The teacher's answers on ``split`` under ``recipe`` without chance. Raises UsageError, IntegrityError."""
    model = Teacher.load(teacher.config, weights, len(split.classes), recipe, split.block_size, pick_device())
    return answers_of(
        lambda images: {"class": model.predict(images)}, model.weights_hash, teacher.name, split, recipe, workers
    )
