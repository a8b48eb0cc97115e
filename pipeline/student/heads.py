"""What a student answers: one tensor per head. Apart from the models, so that losses know no model."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
