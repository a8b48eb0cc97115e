"""The file of answers: whole or refused, of the model and the images that it says; and what is computed from two."""

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from pipeline.evaluation import disagreement, metrics, predictions, tokens
from pipeline.runtime.errors import IdentityError, IntegrityError, UsageError
from tests.support.answers import answered


def test_answers_come_back_whole_and_the_same_answers_are_the_same_bytes(tmp_path: Path) -> None:
    found = answered(50, 7, seed=0)
    size = predictions.write(tmp_path / "a.npz", found)
    predictions.write(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert size == (tmp_path / "a.npz").stat().st_size
    back = predictions.read(tmp_path / "a.npz", "x")
    assert back.identity == found.identity and back.heads == found.heads == predictions.HEADS
    for kind in ("logits", "ranks", "hard"):
        assert all(np.array_equal(getattr(back, kind)[head], of) for head, of in getattr(found, kind).items())
    bare = predictions.read(tmp_path / "a.npz", "x", logits=False)
    assert not bare.logits and np.array_equal(bare.ranks["fused"], found.ranks["fused"])


def test_damaged_and_missing_answers_are_refused_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UsageError, match="no such file; write it with: evaluate again"):
        predictions.read(path, "evaluate again")
    predictions.write(path, answered(50, 7, seed=0))
    whole = path.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError, match="write them again with: evaluate again"):
            predictions.read(path, "evaluate again")
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(IntegrityError):
        predictions.read(path, "x")
    found = answered(50, 7, seed=0)
    predictions.write(path, replace(found, ranks=found.ranks | {"class": found.ranks["class"][:-1]}))
    with pytest.raises(IntegrityError, match="head class"):
        predictions.read(path, "x")


def test_answers_of_another_model_or_other_images_are_not_compared(tmp_path: Path) -> None:
    one = answered(50, 7, seed=0, model="m1")
    with pytest.raises(IdentityError, match="expected weights m2, found m1; write them again with: y"):
        predictions.require_of(one, "m2", Path("x.npz"), "y")
    predictions.require_same_images(one, answered(50, 7, seed=1), ("a", "b"))
    other = replace(one, identity=one.identity | {"shards": ["b"]})
    with pytest.raises(IdentityError, match="a and b answered other images"):
        predictions.require_same_images(one, other, ("a", "b"))
    other = replace(one, digests=np.array(["0" * 16]))
    with pytest.raises(IntegrityError, match="a and b saw other pixels of the same images"):
        predictions.require_same_images(one, other, ("a", "b"))
    sized = replace(other, identity=one.identity | {"recipe": {"size": 16}})  # another size: other pixels are right
    predictions.require_same_images(one, sized, ("a", "b"))


def test_mcnemar_is_the_binomial_sum() -> None:
    chance = np.random.default_rng(0)
    one, other = chance.random(300) < 0.8, chance.random(300) < 0.7
    found = disagreement.mcnemar(one, other)
    b, c = found["only_first"], found["only_second"]
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert b == sum(one & ~other) and c == sum(other & ~one) and found["p"] == pytest.approx(min(1.0, 2 * tail))
    assert disagreement.mcnemar(one, one)["p"] == 1.0


def test_disagreement_agreement_and_divergence_are_their_definitions() -> None:
    one, other = answered(200, 9, seed=0, heads=1), answered(200, 9, seed=1)
    found = disagreement.matrix({"labels": one.labels, "a": one.hard["class"], "b": other.hard["fused"]})
    assert found == np.array(found).T.tolist() and [found[i][i] for i in range(3)] == [0, 0, 0]
    assert 100 - 100 * found[0][1] == pytest.approx(metrics.of_head(one, "class")["top1"])
    assert disagreement.agreement(one.hard["class"], other.hard["fused"]) == pytest.approx(100 - 100 * found[1][2])
    p = torch.from_numpy(one.logits["class"]).float().log_softmax(1)
    q = torch.from_numpy(other.logits["class"]).float().log_softmax(1)
    expected = float(F.kl_div(q, p, reduction="batchmean", log_target=True))
    assert disagreement.divergence(one, other, "class") == pytest.approx(expected, rel=1e-4)


def test_confusion_adds_up_and_its_worst_pairs_stand_first() -> None:
    found = answered(300, 6, seed=0, good=0.5)
    table = np.array(disagreement.confusion(found, "fused"))
    right = disagreement.per_class(found, "fused")
    assert table.sum() == 300 and np.allclose(100 * table.diagonal() / table.sum(1), right)
    pairs = disagreement.confused(found, "fused", 5)
    off = sorted((table - np.diag(table.diagonal())).flatten(), reverse=True)
    assert [pair["samples"] for pair in pairs] == off[:5]
    rows = disagreement.worst([found], 300)
    own = metrics.probabilities(found, "fused")[np.arange(300), found.labels]
    assert sorted(rows) == list(range(300)) and (np.diff(own[rows]) >= 0).all()


def test_token_similarities_are_those_of_the_forward_pass() -> None:
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5
    ).eval()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 32, 32), np.float32))
    with torch.inference_mode(), tokens.watched(model) as sums:
        model(images[:4])
        model(images[4:])
    found = tokens.similarities(model, sums)
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
        same = tokens.similarities(model, sums)
    assert same["parameters"] == pytest.approx(1.0) and same["heads"] == pytest.approx(-1.0)
    assert not model.blocks[0]._forward_hooks and not model.blocks[0]._forward_pre_hooks
