"""Where the class token of a vision transformer looks."""

from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def of_class_token(model: Any, images: Tensor) -> Tensor:
    """Attention of the class token on the patches in the last layer, mean over the attention heads: images float (n, 3,
    R, R) -> (n, rows, columns), each map adding up to what the other tokens leave of 1. ``model``: timm's."""
    seen: list[Tensor] = []
    attention = model.blocks[-1].attn
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.forward_features(images)
    finally:
        handle.remove()
    tokens = seen[0]
    n, count, _ = tokens.shape
    q, k, _ = attention.qkv(tokens).reshape(n, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    shares = ((q[:, :, :1] * attention.scale) @ k.transpose(-2, -1)).softmax(-1)  # (n, heads, 1, tokens)
    patches = shares[:, :, 0, model.num_prefix_tokens :].mean(1)
    rows, columns = model.patch_embed.grid_size
    return patches.reshape(n, rows, columns)
