"""Checkpoints: bit-identical, whole or absent, the one before a damaged one, nothing lost on a full disk."""

import io
import itertools
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from pipeline.base import files
from pipeline.runtime.errors import IntegrityError
from pipeline.training import checkpoint
from tests.support.hostile import DEEP, LONG, Evil


def state(value: float) -> dict[str, object]:
    return {"model": {"w": torch.full((1000,), value)}, "note": "x", "list": [1, 2.5, None, (True, b"b")]}


class Run:
    """A small training run with everything that has state: AdamW, cosine, average, dropout."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.average = ModelEmaV3(self.model, decay=0.9)

    def step(self) -> float:
        loss = self.model(torch.randn(4, 8)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.average.update(self.model)
        return loss.item()

    def parts(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.module.state_dict(),
            "rng": checkpoint.rng_state(),
        }


def test_a_restored_run_goes_on_to_the_same_bits(tmp_path):
    straight = Run()
    losses = [straight.step() for _ in range(8)]
    stopped = Run()
    for _ in range(3):
        stopped.step()
    checkpoint.save(tmp_path, 3, stopped.parts())

    fresh = Run()
    torch.manual_seed(99)
    step, saved = checkpoint.latest(tmp_path)
    fresh.model.load_state_dict(saved["model"])
    fresh.optimizer.load_state_dict(saved["optimizer"])
    fresh.scheduler.load_state_dict(saved["scheduler"])
    fresh.average.module.load_state_dict(saved["average"])
    checkpoint.restore_rng(saved["rng"])
    assert step == 3
    assert [fresh.step() for _ in range(5)] == losses[3:]
    for a, b in (("model", "model"), ("average", "average")):
        for name, value in fresh.parts()[a].items():
            assert torch.equal(value, straight.parts()[b][name]), (a, name)


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
    assert checkpoint.latest(tmp_path / "absent") is None
    for step in (5, 10, 100):
        checkpoint.save(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    step, found = checkpoint.latest(tmp_path)
    assert step == 100
    assert torch.equal(found["model"]["w"], torch.full((1000,), 100.0))
    assert found["list"] == [1, 2.5, None, (True, b"b")]


def damage(path: Path, kind: str) -> None:
    file = path / "state.pt"
    content = bytearray(file.read_bytes())
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif kind == "no state":
        file.unlink()
    elif kind == "no record":
        (path / "checkpoint.json").unlink()
    elif kind == "cut record":
        (path / "checkpoint.json").write_bytes((path / "checkpoint.json").read_bytes()[:20])
    elif kind == "odd record":
        (path / "checkpoint.json").write_bytes(b"[1]")


KINDS = ["truncated", "empty", "flipped", "no state", "no record", "cut record", "odd record"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path, capsys, kind):
    checkpoint.save(tmp_path, 1, state(1))
    damage(checkpoint.save(tmp_path, 2, state(2)), kind)
    step, found = checkpoint.latest(tmp_path)
    assert (step, found["model"]["w"][0].item()) == (1, 1.0)
    assert "step-00000002" in capsys.readouterr().out


def test_another_steps_directory_is_not_taken_for_this_one(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2)).rename(tmp_path / "step-00000007")
    assert checkpoint.latest(tmp_path)[0] == 1


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    for step in (1, 2):
        damage(checkpoint.save(tmp_path, step, state(step)), "flipped")
    with pytest.raises(IntegrityError, match=r"all 2 checkpoints are damaged.*delete"):
        checkpoint.latest(tmp_path)


def test_going_on_from_an_older_one_replaces_the_damaged(tmp_path):
    for step in (1, 2, 3):
        last = checkpoint.save(tmp_path, step, state(step))
    damage(last, "flipped")
    assert checkpoint.latest(tmp_path)[0] == 2
    checkpoint.save(tmp_path, 3, state(30))
    assert checkpoint.latest(tmp_path)[1]["model"]["w"][0].item() == 30.0


def test_a_later_damaged_step_does_not_push_out_a_whole_one(tmp_path):
    for step in (10, 20):
        last = checkpoint.save(tmp_path, step, state(step))
    damage(last, "truncated")
    checkpoint.save(tmp_path, 15, state(15))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]


def test_a_writer_killed_at_any_point_leaves_a_whole_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    newest, unfinished, kills = 1, 0, 0
    while unfinished < 4 and kills < 100:
        child = os.fork()
        if child == 0:
            try:
                for step in itertools.count(newest + 1):
                    checkpoint.save(tmp_path, step, state(step))
            finally:
                os._exit(1)
        while max(tmp_path.glob("step-*")).name == f"step-{newest:08d}":  # until it has saved one
            time.sleep(0.001)
        time.sleep(0.0007 * kills)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        kills += 1
        unfinished += any(path.name.startswith(".") for path in tmp_path.iterdir())
        step, found = checkpoint.latest(tmp_path)
        assert step > newest
        assert torch.equal(found["model"]["w"], torch.full((1000,), float(step)))
        newest = step
    assert unfinished == 4  # kills that did hit a save half-way
    checkpoint.save(tmp_path, newest + 1, state(0))
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_full_disk_raises_oserror_and_leaves_the_earlier_ones(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(tmp_path, 2, {"w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.latest(tmp_path)[0] == 1


def test_what_could_not_be_read_back_is_refused_when_saving(tmp_path):
    with pytest.raises(TypeError, match=r"state\['optimizer'\]\[0\].*found Path|found PosixPath"):
        checkpoint.save(tmp_path, 1, {"optimizer": [Path("x")]})
    assert list(tmp_path.iterdir()) == []


def _as_saved(path: Path, content: bytes) -> None:
    """Replaces a checkpoint's state, with the record that goes with it."""
    (path / "state.pt").write_bytes(content)
    step = int(path.name.removeprefix("step-"))
    (path / "checkpoint.json").write_bytes(files.canonical_json(checkpoint._record(path / "state.pt", step)))


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _list_state() -> bytes:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "state is a directory": lambda path: _replaced(path / "state.pt", Path.mkdir),
    "record is a directory": lambda path: _replaced(path / "checkpoint.json", Path.mkdir),
    "state is a looping link": lambda path: _replaced(path / "state.pt", lambda p: p.symlink_to(p.name)),
    "record is a dangling link": lambda path: _replaced(path / "checkpoint.json", lambda p: p.symlink_to("gone")),
    "both are missing": lambda path: [(path / name).unlink() for name in ("state.pt", "checkpoint.json")],
    "record is nested": lambda path: (path / "checkpoint.json").write_bytes(DEEP),
    "record has a long number": lambda path: (path / "checkpoint.json").write_bytes(b'{"step": ' + LONG + b"}"),
    "record is no text": lambda path: (path / "checkpoint.json").write_bytes(b"\xff\0"),
    "state is a raw pickle": lambda path: _as_saved(path, pickle.dumps({"model": 1})),
    "state is code": lambda path: _as_saved(path, pickle.dumps(Evil(path / "marker"))),
    "state is text": lambda path: _as_saved(path, b"hello"),
    "state is empty": lambda path: _as_saved(path, b""),
    "state is a list": lambda path: _as_saved(path, _list_state()),
    "state is half a zip": lambda path: _as_saved(path, _list_state()[:300]),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's, of plain and of damaged pickles
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_checkpoint_damaged_in_any_form_gives_way_to_the_one_before(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, 1, {"w": torch.ones(3)})
    newest = checkpoint.save(tmp_path, 2, {"w": torch.zeros(3)})
    DAMAGES[kind](newest)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[0] == 1 and found[1]["w"].tolist() == [1.0] * 3
    assert "step-00000002" in capsys.readouterr().out and not (newest / "marker").exists()
    assert checkpoint.save(tmp_path, 2, {"w": torch.zeros(3)}) == newest
    assert (
        checkpoint.latest(tmp_path) == (2, {"w": pytest.approx(torch.zeros(3))}) or checkpoint.latest(tmp_path)[0] == 2
    )


def test_a_whole_checkpoint_that_a_run_cannot_take_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, 1, {"model": {"w": torch.ones(3)}})
    checkpoint.save(tmp_path, 2, {"model": {"v": torch.ones(3)}})
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(3))})
    found = checkpoint.latest(tmp_path, lambda state: model.load_state_dict(state["model"]) and None)
    assert found is not None and found[0] == 1 and model["w"].tolist() == [1.0] * 3
    assert "step-00000002: not a state of this run" in capsys.readouterr().out
    with pytest.raises(IntegrityError, match="all 2 checkpoints are damaged"):
        checkpoint.latest(tmp_path, lambda state: model.load_state_dict(state["none"]) and None)
