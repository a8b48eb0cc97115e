"""Small students of DeiT's kind, as untrained models."""

from typing import Any

import torch

from pipeline.runtime.config import validate
from pipeline.student.config import StudentConfig
from pipeline.student.model import Student, create_student
from pipeline.views.recipe import Recipe
from tests.support.world import MODEL

DISTILLED, TWIN, VIT = "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "vit_tiny_patch16_224"


CLASSES = [f"class {i}" for i in range(10)]


def config(arch: str = DISTILLED, **fields: Any) -> StudentConfig:
    token = "_distilled_" in arch
    default = {
        "arch": arch,
        "arch_args": MODEL,
        "distillation": "hard" if token else "none",
        "token": token,
        "recipe": "r",
        "training": "t",
        "cache": "c" if token else "none",
        "teacher": "none",
        "parent": "none",
    }
    return validate(StudentConfig, {**default, **fields}, "students.a")


def make(arch: str = DISTILLED, classes: int = 10, seed: int = 0, **fields: Any) -> Student:
    torch.manual_seed(seed)
    made = create_student(config(arch, **fields), classes)
    for parameter in made.parameters():  # timm's heads start at zero: every answer would be equal
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def views(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def recipe(**fields: Any) -> Recipe:
    return validate(Recipe, {"seed": 0, "size": 32, **fields}, "views")
