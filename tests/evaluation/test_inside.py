"""Similarities of the tokens are those of the forward pass."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from pipeline.evaluation import inside


def test_token_similarities_are_those_of_the_forward_pass() -> None:
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5
    ).eval()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 32, 32), np.float32))
    with torch.inference_mode(), inside.token_sums(model) as sums:
        model(images[:4])
        model(images[4:])
    found = inside.similarities(model, sums)
    with torch.no_grad():
        x = model._pos_embed(model.patch_embed(images))
        expected = [float(F.cosine_similarity(x[:, 0], x[:, 1]).mean())]
        for block in model.blocks:
            x = block(x)
            expected.append(float(F.cosine_similarity(x[:, 0], x[:, 1]).mean()))
    assert found["layers"] == pytest.approx(expected, abs=1e-6)
    with torch.no_grad():
        model.dist_token.copy_(model.cls_token)
        model.head_dist.weight.copy_(-model.head.weight)
        same = inside.similarities(model, sums)
    assert same["parameters"] == pytest.approx(1.0) and same["heads"] == pytest.approx(-1.0)
    assert not model.blocks[0]._forward_hooks and not model.blocks[0]._forward_pre_hooks
