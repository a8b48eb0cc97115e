"""The student: a timm classifier; of DeiT's distilled transformers both heads are seen, in train and in eval mode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base import timm_models
from pipeline.runtime.errors import UsageError
from pipeline.student.config import StudentConfig


@dataclass(frozen=True)
class Heads:
    """Logits float (B, C) of the class head, and of the distillation head where the student has one."""

    class_logits: Tensor
    distillation_logits: Tensor | None = None

    def fused(self) -> Tensor:
        """Sum of the two heads' softmaxes, float32 (B, C): the joint classifier of the DeiT paper (section 4).

        DeiT's code and timm average the logits instead. Without a distillation head: the class head's softmax.
        """
        scores = torch.softmax(self.class_logits.float(), dim=1)
        if self.distillation_logits is not None:
            scores = scores + torch.softmax(self.distillation_logits.float(), dim=1)
        return scores


class Student(nn.Module):
    """Wraps a timm classifier: images float (B, 3, R, R) -> Heads, the same in train and eval mode.

    timm gives both heads of a model with a distillation token only in train mode after ``set_distilled_training``, else their
    mean. LeViT has two heads and no token: it answers with their mean, as timm has it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # timm's attributes are unknown to torch.nn.Module
        self.distilled = hasattr(model, "dist_token")

    def forward(self, images: Tensor) -> Heads:
        if not self.distilled:
            return Heads(self.model(images))
        tokens = self.model.forward_features(images)  # (B, 2 + patches, D): class token, distillation token, patches
        drop = self.model.head_drop
        return Heads(self.model.head(drop(tokens[:, 0])), self.model.head_dist(drop(tokens[:, 1])))

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimisers leave undecayed besides biases and norms: of a vision transformer position
        embedding, class and distillation token; of most convolutional networks none.

        DeiT (timm 0.3.2) decayed the distillation token; timm >= 1.0 does not, and neither do we.
        """
        ask = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in ask()}


def create_student(config: StudentConfig, classes: int, size: int | None = None) -> Student:
    """A new student with C = ``classes``, on the CPU, initialised from torch's global generator (seed it first).

    ``size`` is the recipe's R in pixels: where it is given, ``img_size`` follows it unless it is set, and the model is
    checked to take it. Raises UsageError if timm refuses the arguments, the model is no classifier, or it takes another size.
    """
    arch_args = config.arch_args if size is None else timm_models.sized(config.arch, config.arch_args, size)
    model = timm_models.create_model(config.arch, arch_args, classes, config.drop_path)
    if not timm_models.classifiers_of(model):
        raise UsageError(
            f"{config.arch}: expected a classifier, and timm names no classifier of it; choose another model"
        )
    if size is not None:
        timm_models.require_size(model, config.arch, arch_args, size)
    return Student(model)
