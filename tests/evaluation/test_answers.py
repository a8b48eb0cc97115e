"""The file of answers: whole or refused, of the model and the images that it says; and what is computed from two."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluation.answering import answers_of
from pipeline.evaluation.answers import HEADS, read_answers, require_answers_of, require_same_images, write_answers
from pipeline.runtime.errors import IdentityError, IntegrityError, RetryError, UsageError
from tests.support.answers import answered
from tests.support.world import make_world


def test_answers_come_back_whole_and_the_same_answers_are_the_same_bytes(tmp_path: Path) -> None:
    found = answered(50, 7, seed=0)
    size = write_answers(tmp_path / "a.npz", found)
    write_answers(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert size == (tmp_path / "a.npz").stat().st_size
    back = read_answers(tmp_path / "a.npz", "x")
    assert back.identity == found.identity and back.heads == found.heads == HEADS
    for kind in ("logits", "ranks", "hard"):
        assert all(np.array_equal(getattr(back, kind)[head], of) for head, of in getattr(found, kind).items())


def test_damaged_and_missing_answers_are_refused_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UsageError, match="no such file; write it with: evaluate again"):
        read_answers(path, "evaluate again")
    write_answers(path, answered(50, 7, seed=0))
    whole = path.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError, match="write them again with: evaluate again"):
            read_answers(path, "evaluate again")
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(IntegrityError):
        read_answers(path, "x")
    found = answered(50, 7, seed=0)
    write_answers(path, replace(found, ranks=found.ranks | {"class": found.ranks["class"][:-1]}))
    with pytest.raises(IntegrityError, match="head class"):
        read_answers(path, "x")


def test_answers_of_another_model_or_other_images_are_not_compared(tmp_path: Path) -> None:
    one = answered(50, 7, seed=0, model="m1")
    with pytest.raises(IdentityError, match="expected weights m2, found m1; write them again with: y"):
        require_answers_of("m2", one, Path("x.npz"), "y")
    require_same_images(one, answered(50, 7, seed=1), ("a", "b"))
    other = replace(one, identity=one.identity | {"shards": ["b"]})
    with pytest.raises(IdentityError, match="a and b answered other images"):
        require_same_images(one, other, ("a", "b"))
    other = replace(one, digests=np.array(["0" * 16]))
    with pytest.raises(IntegrityError, match="a and b saw other pixels of the same images"):
        require_same_images(one, other, ("a", "b"))
    sized = replace(other, identity=one.identity | {"recipe": {"size": 16}})  # another size: other pixels are right
    require_same_images(one, sized, ("a", "b"))


def test_answers_without_memory_name_the_block(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with pytest.raises(RetryError, match=r"out of memory .*\(block = 32\)"):
        answers_of(lambda images: {"class": torch.empty(1 << 60)}, "m", "t", world.val, world.recipe, 0)
