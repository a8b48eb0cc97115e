"""Looking inside a model: its size, its speed, how alike its two tokens are, and where its class token looks.

The paper (section 4, Touvron et al. 2021) gives a mean cosine of class and distillation token of 0.06 at the input and 0.93
at the last layer, and of 0.999 for two class tokens, the control.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.flop_counter import FlopCounterMode

from pipeline.runtime.machine import median_seconds, sum_over_ranks


def gflops(call: Callable[[], object]) -> float:
    """GFLOP of a call, one multiply-add as two, attention counted whole (papers often give multiply-adds: half of it)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def images_per_second(answer: Callable[[Tensor], object], images: Tensor) -> float:
    """How many images a warm forward pass answers per second: one batch that lies on the device, without drawing."""
    return len(images) / median_seconds(lambda: answer(images), images.device)


@contextmanager
def token_sums(model: Any) -> Iterator[Tensor]:
    """Sums of the tokens' cosines over the images of all forward passes while it lasts, of a distilled timm vision
    transformer: float64 (layers + 2,), at the input, after each layer, and last the number of images."""
    sums = torch.zeros(len(model.blocks) + 2, dtype=torch.float64, device=model.cls_token.device)

    def add(place: int, tokens: Tensor) -> None:  # float (B, 2 + patches, D)
        sums[place] += cosine_similarity(tokens[:, 0].double(), tokens[:, 1].double(), dim=1).sum()

    def add_first(_: Any, inputs: tuple[Tensor]) -> None:
        add(0, inputs[0])
        sums[-1] += len(inputs[0])

    handles = [model.blocks[0].register_forward_pre_hook(add_first)]
    for place, block in enumerate(model.blocks, start=1):
        handles.append(block.register_forward_hook(lambda _, inputs, output, place=place: add(place, output)))
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def similarities(model: Any, sums: Tensor) -> dict[str, Any]:
    """``parameters``: cosine of the two learned tokens, without positions; ``layers``: mean cosine at the input (with
    positions) and after each layer, of the ``token_sums`` of all ranks; ``heads``: mean over the classes of the cosine of the
    two heads' weights."""
    tokens = cosine_similarity(model.cls_token.double().flatten(), model.dist_token.double().flatten(), dim=0)
    heads = cosine_similarity(model.head.weight.double(), model.head_dist.weight.double(), dim=1).mean()
    total = sum_over_ranks(sums)
    return {"parameters": float(tokens), "layers": (total[:-1] / total[-1]).tolist(), "heads": float(heads)}


def has_class_token(model: Any) -> bool:
    """Whether ``model``, timm's, is a vision transformer whose class token can be asked where it looks."""
    return isinstance(model, VisionTransformer) and model.cls_token is not None


@torch.inference_mode()
def attention_of_class_token(model: Any, images: Tensor) -> Tensor:
    """Attention of the class token on the patches in the last layer, mean over the attention heads: images float (n, 3,
    R, R) -> (n, rows, columns), each map adding up to what the other tokens leave of 1. ``model``: timm's."""
    seen: list[Tensor] = []
    attention = model.blocks[-1].attn
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.forward_features(images)
    finally:
        handle.remove()
    n, count, _ = seen[0].shape
    q, k, _ = attention.qkv(seen[0]).reshape(n, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    shares = ((q[:, :, :1] * attention.scale) @ k.transpose(-2, -1)).softmax(-1)  # (n, heads, 1, tokens)
    rows, columns = model.patch_embed.grid_size
    return shares[:, :, 0, model.num_prefix_tokens :].mean(1).reshape(n, rows, columns)
