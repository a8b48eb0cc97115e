"""Two ranks over gloo: the same views as one process, the same losses up to rounding, in step under ``auto``; an image's
views together, and gradients accumulated."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from pipeline.cache.reader import open_cache
from pipeline.evaluation import students
from pipeline.evaluation.answering import answers_of
from pipeline.evaluation.answers import Answers, write_answers
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import distributed
from pipeline.student import train
from pipeline.student.inputs import Inputs
from pipeline.student.model import create_student
from tests.support.processes import started
from tests.support.world import World, make_world, named, open_world, student, training

STEPS = 8


def trained(world: World, folder: Path) -> list[dict[str, float]]:
    """Log rows of a run under ``auto`` on a pool in which half of the parts are labelled."""
    if not world.pool.exists():  # the one process, which comes first
        world.label("none", 3, "1/2")
    cache = open_cache(next((world.pool / "caches").iterdir()), views=3)
    inputs = Inputs(world.shards, world.val, 3, cache, world.live("none"), None)
    config = training(world, STEPS, window=1, checkpoint_steps=3, accumulate=2)
    return train.train_student(named(world, config, student("auto", "hard", drop_path=0.0)), inputs, folder, 0).rows


def answered(world: World) -> Answers:
    """A new student's answers on the validation split."""
    torch.manual_seed(0)
    model = create_student(student("auto", "hard", drop_path=0.0), len(world.val.classes)).eval()
    return answers_of(lambda images: students.by_head(model, images), "m", "s", world.val, world.recipe, 0)


def as_rank(root: Path, number: int, port: int) -> None:
    """What one of two ranks does in a process of its own."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "DISTIL_TIMEOUT": "600"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed():
        rows, found = trained(open_world(root, shared_pairing=3), root / "together"), answered(open_world(root))
        if number == 0:
            (root / "rows.json").write_text(json.dumps(rows))
            write_answers(root / "answers-together.npz", found)
        try:
            trained(open_world(root, shared_pairing=3), root / ("together" if number == 0 else "empty"))
        except UsageError as error:
            (root / f"apart{number}.txt").write_text(str(error))


def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    world = make_world(tmp_path, shared_pairing=3)
    alone = trained(world, tmp_path / "alone")
    write_answers(tmp_path / "answers-alone.npz", answered(world))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [started(as_rank, tmp_path, number, port) for number in range(2)]
    for process in ranks:
        process.join(1200)
    assert [process.exitcode for process in ranks] == [0, 0]
    together = json.loads((tmp_path / "rows.json").read_text())
    assert len(together) == len(alone) > 0
    for a, b in zip(alone, together):
        assert 0 < a["live_fraction"] < 1 and b["live_fraction"] == pytest.approx(a["live_fraction"])
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5) and b["val_top1"] == a["val_top1"]
    first, second = ((tmp_path / f"answers{name}.npz").read_bytes() for name in ("-alone", "-together"))
    assert first == second  # blocks are shared out, none is answered twice, and each is answered as by one process
    for i in range(2):  # pools of two nodes that are not one
        assert f"found checkpoints of different steps, [{STEPS}, 0]" in (tmp_path / f"apart{i}.txt").read_text()
