"""Whether timm builds the models of params.yaml, whether they take their views, and whether local weights fit them.

Models are built on the device meta, without weights, and given views of the right shape: what would fail after hours of
other stages is found here.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.base.timm_models import require_known
from pipeline.planning.pieces import Pieces
from pipeline.runtime.config import is_hub
from pipeline.runtime.errors import PipelineError, UsageError, first_line
from pipeline.student.config import StudentConfig
from pipeline.student.initial import load_initial, read_student_initial
from pipeline.student.model import Student, create_student
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import create_teacher, read_teacher_initial, require_fit, start_from

_CLASSES = 2  # of a model that is only looked at


def misfits(pieces: Pieces, classes: int | None, files: bool) -> list[PipelineError]:
    """The first problem of each model and of its local weights, which are read where ``files`` allows it; ``classes``: C,
    None where it is not known."""
    found: list[PipelineError] = []
    for section, check in (("teachers", _require_teacher), ("students", _require_student)):
        for name in getattr(pieces, section):
            try:
                check(pieces, name, classes, files)
            except PipelineError as error:
                found.append(type(error)(f"{section}.{name}: {error}"))
    return found


def _require_teacher(pieces: Pieces, name: str, classes: int | None, files: bool) -> None:
    teacher = pieces.teachers[name]
    require_known(teacher.arch, teacher.arch_args, teacher.weights or teacher.initial)
    if teacher.recipe not in pieces.recipes:
        return
    own = pieces.recipes[teacher.recipe].size
    model = _teacher_on_meta(teacher, own)
    _require_takes(model, own)
    for size, where in _labelled_sizes(pieces, name).items():
        if size != own:
            larger = _teacher_on_meta(teacher, size)
            _require_takes(larger, size)
            _require_same_shapes(model, larger, f"{where} draws {size} px, and its weights for {own} px")
    if teacher.weights is not None and (is_hub(teacher.weights) or _there(teacher.weights, files)):
        require_fit(teacher, classes, own)
    if _there(teacher.initial, files):
        start_from(
            create_teacher(teacher, classes or _CLASSES, False, own), read_teacher_initial(teacher, own), quiet=True
        )
    student = pieces.students.get(teacher.student)
    if student is not None and student.recipe in pieces.recipes:
        given = _student_on_meta(pieces, teacher.student).model
        _require_same_shapes(given, model, f"student {teacher.student}'s weights")


def _require_student(pieces: Pieces, name: str, classes: int | None, files: bool) -> None:
    student = pieces.students[name]
    require_known(student.arch, student.arch_args, student.initial)
    if student.recipe not in pieces.recipes:
        return
    size = pieces.recipes[student.recipe].size
    _require_takes(_student_on_meta(pieces, name), size)
    parent = pieces.students.get(student.parent)
    if parent is not None and parent.recipe in pieces.recipes:
        given = _student_on_meta(pieces, student.parent).model.state_dict()
        load_initial(_student_on_meta(pieces, name), given, quiet=True)
    if _there(student.initial, files):
        given = read_student_initial(student)
        load_initial(create_student(student, classes or _CLASSES, size), given, quiet=True)


def _there(weights: str | None, files: bool) -> bool:
    """Whether these are weights in a local file that may be read."""
    return weights is not None and not is_hub(weights) and files and Path(weights).is_file()


def _labelled_sizes(pieces: Pieces, name: str) -> dict[int, str]:
    """The sizes of the views that a teacher labels besides its own recipe's, each with who asks for it."""
    asked = [(c.recipe, f"caches.{key}") for key, c in pieces.caches.items() if c.teacher == name]
    asked += [(s.recipe, f"students.{key}") for key, s in pieces.students.items() if s.teacher == name]
    return {
        pieces.recipes[recipe].size: f"{key} of recipe {recipe}" for recipe, key in asked if recipe in pieces.recipes
    }


def _teacher_on_meta(teacher: TeacherConfig, size: int) -> nn.Module:
    return _built_teacher(teacher.arch, json.dumps(teacher.arch_args), size)


def _student_on_meta(pieces: Pieces, name: str) -> Student:
    student = pieces.students[name]
    size = pieces.recipes[student.recipe].size
    return _built_student(student.arch, json.dumps(student.arch_args), student.drop_path, size)


@cache  # a study has dozens of students and few models
def _built_teacher(arch: str, arch_args: str, size: int) -> nn.Module:
    config = TeacherConfig.model_construct(arch=arch, arch_args=json.loads(arch_args))
    with torch.device("meta"):
        return create_teacher(config, _CLASSES, pretrained=False, size=size)


@cache
def _built_student(arch: str, arch_args: str, drop_path: float, size: int) -> Student:
    config = StudentConfig.model_construct(arch=arch, arch_args=json.loads(arch_args), drop_path=drop_path)
    with torch.device("meta"):
        return create_student(config, _CLASSES, size)


@cache
def _require_takes(model: nn.Module, size: int) -> None:
    """Raises UsageError unless the model gives logits (2, C) for two views of this size."""
    try:
        found: Any = model.eval()(torch.empty(2, 3, size, size, device="meta"))
    except NotImplementedError:  # an operation that needs numbers: nothing is known
        return
    except Exception as error:  # arguments of any kind meet code of any kind
        raise UsageError(
            f"can't take views of {size} px: {first_line(error)}; correct its arch_args, or the recipe's size"
        ) from None
    heads = [found] if not isinstance(model, Student) else [found.class_logits, found.distillation_logits]
    for logits in heads:
        shape = tuple(getattr(logits, "shape", ())) if logits is not None else (2, _CLASSES)
        if shape != (2, _CLASSES):
            raise UsageError(f"gives {shape} for two views where logits (2, C) are expected; correct its arch_args")


def _require_same_shapes(given: nn.Module, model: nn.Module, what: str) -> None:
    ours, theirs = ({name: tuple(value.shape) for name, value in m.state_dict().items()} for m in (model, given))
    apart = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if apart:
        first = apart[0]
        raise UsageError(
            f"{what} do not fit: {first} is {theirs.get(first, 'missing')}, expected {ours.get(first, 'none')}; use the same "
            f"architecture and a recipe of the same size{', or dynamic_img_size: true' if first == 'pos_embed' else ''}"
        )
