"""How alike the class token and the distillation token are, at the input and after each layer.

The paper (section 4, Touvron et al. 2021) gives a mean cosine of 0.06 at the input and 0.93 at the last layer, and of
0.999 for two class tokens, the control.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pipeline.runtime.machine import world_size


@dataclass
class TokenSums:
    """Sums of cosines over ``samples`` images, by place: what enters the first layer, then after each layer."""

    sums: dict[int, Tensor] = field(default_factory=dict)
    samples: int = 0

    def add(self, place: int, tokens: Tensor) -> None:
        """``tokens`` float (B, 2 + patches, D)."""
        found = cosine_similarity(tokens[:, 0].double(), tokens[:, 1].double(), dim=1).sum()
        self.sums[place] = self.sums[place] + found if place in self.sums else found
        self.samples += len(tokens) if place == 0 else 0

    def means(self) -> list[float]:
        """Over all ranks."""
        total = torch.stack([self.sums[place] for place in sorted(self.sums)])
        count = torch.tensor([float(self.samples)], dtype=total.dtype, device=total.device)
        total = torch.cat([total, count])
        if world_size() > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total[:-1] / total[-1]]


@contextmanager
def watched(model: Any) -> Iterator[TokenSums]:
    """Adds up, while it lasts, the cosines of the tokens in a distilled timm vision transformer's forward passes."""
    sums = TokenSums()
    handles = [model.blocks[0].register_forward_pre_hook(lambda _, inputs: sums.add(0, inputs[0]))]
    for place, block in enumerate(model.blocks, start=1):
        handles.append(block.register_forward_hook(lambda _, inputs, output, place=place: sums.add(place, output)))
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def similarities(model: Any, sums: TokenSums) -> dict[str, Any]:
    """``parameters``: cosine of the two learned tokens, without positions; ``layers``: mean cosine at the input (with
    positions) and after each layer; ``heads``: mean over the classes of the cosine of the two heads' weights."""
    tokens = cosine_similarity(model.cls_token.double().flatten(), model.dist_token.double().flatten(), dim=0)
    heads = cosine_similarity(model.head.weight.double(), model.head_dist.weight.double(), dim=1).mean()
    return {"parameters": float(tokens), "layers": sums.means(), "heads": float(heads)}
