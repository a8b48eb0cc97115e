"""Weights files: every kind that is read, every kind that is refused, and no code run."""

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.base import weights
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from tests.support.hostile import Evil


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "head.weight": torch.randn(3, 4, generator=generator),
        "scalar": torch.tensor(7),
        "half": torch.randn(5, generator=generator).bfloat16(),
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_safetensors_come_back_and_two_writes_give_equal_bytes(tmp_path, state):
    weights.write_state(tmp_path / "a.safetensors", state)
    weights.write_state(tmp_path / "b.safetensors", dict(reversed(state.items())))
    assert same(weights.read_state(tmp_path / "a.safetensors"), state)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("old_format", [False, True])
def test_a_deit_checkpoint_with_its_namespace_is_read(tmp_path, state, old_format):
    ema = {name: value + 1 for name, value in state.items()}
    content = {
        "model": OrderedDict(state),
        "optimizer": {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 299,
        "model_ema": ema,
        "args": argparse.Namespace(lr=5e-4, data_path="/data", betas=None),
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    assert same(weights.read_state(path), state)
    assert same(weights.read_state(str(path), "model_ema"), ema)
    with pytest.raises(UsageError, match="expected weights under 'state_dict', found the keys 'model'"):
        weights.read_state(path, "state_dict")


def test_wrapper_prefixes_are_taken_off(tmp_path, state):
    path = tmp_path / "ddp.pt"
    torch.save({"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}}, path)
    assert same(weights.read_state(path), state)
    torch.save({"a": torch.ones(1), "module.a": torch.ones(1)}, path)
    with pytest.raises(UsageError, match="two tensors have one name"):
        weights.read_state(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")  # torch's, of the plain pickle
@pytest.mark.parametrize("kind", ["zip", "old", "plain pickle"])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, state, kind):
    path, marker = tmp_path / "evil.pth", tmp_path / "it-ran"
    content = {"model": state, "args": Evil(marker)}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content["args"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    expected = (UsageError, "a plain Python pickle") if kind == "plain pickle" else (UsageError, "refused, .*run code")
    with pytest.raises(expected[0], match=rf"evil\.pth: {expected[1]}"):
        weights.read_state(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(content["args"]))  # the control: loaded carelessly, it does run
    assert marker.exists()


def test_the_refusal_names_what_the_pickle_wanted(tmp_path):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(UsageError, match=r"refused.*torch\.nn\.modules\.linear\.Linear.*safetensors"):
        weights.read_state(tmp_path / "module.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_files_are_damaged(tmp_path, state, name):
    path = tmp_path / name
    weights.write_state(path, state) if name.endswith("s") else torch.save(state, path)
    whole = path.read_bytes()
    for size in {0, 1, 7, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(IntegrityError, match=path.name.replace(".", r"\.")):
            weights.read_state(path)


def test_a_flipped_bit_in_a_torch_checkpoint_is_seen(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = next(item for item in archive.infolist() if item.filename.endswith("data/0"))
    place = whole.index(state["head.weight"].numpy().tobytes())
    assert place > entry.header_offset
    whole[place + 5] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path)["head.weight"], state["head.weight"])  # torch does not notice
    with pytest.raises(IntegrityError, match="checksum of member"):
        weights.read_state(path)


def test_random_damage_never_gives_other_weights_or_another_error(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    whole = path.read_bytes()
    draws = torch.Generator().manual_seed(1)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(torch.randint(len(whole), (1,), generator=draws))] ^= 1 << int(
            torch.randint(8, (1,), generator=draws)
        )
        path.write_bytes(damaged)
        try:
            found = weights.read_state(path)
        except (IntegrityError, UsageError):
            continue
        assert same(found, state)  # the flip was in padding or in a time stamp


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": torch.ones(1), "epoch": 3}}, "only tensors, found int under 'epoch'"),
        ([torch.ones(1)], "found list"),
        ({}, "expected a mapping"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=message):
        weights.read_state(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.pth: no such weights file"):
        weights.read_state(tmp_path / "nowhere.pth")


def test_the_hash_is_of_names_types_shapes_and_bytes_in_any_order(state):
    first = weights.state_hash(state)
    assert weights.state_hash(dict(reversed(state.items()))) == first
    assert weights.state_hash({**state, "half": state["half"].clone()}) == first
    changed = state["head.weight"].clone()
    changed[2, 3] = torch.nextafter(changed[2, 3], torch.tensor(9.0))
    others = [
        {**state, "head.weight": changed},
        {**state, "head.weight": state["head.weight"].reshape(4, 3)},
        {**state, "half": state["half"].view(torch.int16)},
        {("tail" if name == "half" else name): value for name, value in state.items()},
        {name: value for name, value in state.items() if name != "scalar"},
    ]
    assert len({weights.state_hash(other) for other in others} | {first}) == 6


def test_loading_is_strict_and_leaves_the_model_alone_when_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = weights.state_hash(model.state_dict())
    good = {name: value + 1 for name, value in model.state_dict().items()}
    bad = {
        **{name: value for name, value in good.items() if name != "1.bias"},
        "0.weight": torch.ones(5, 3),
        "x": torch.ones(1),
    }
    with pytest.raises(
        UsageError, match=r"here: .*missing 1\.bias; not in the model x; 0\.weight: expected \(2, 3\), found \(5, 3\)"
    ):
        weights.load_strict(model, bad, "here")
    assert weights.state_hash(model.state_dict()) == before
    weights.load_strict(model, good, "here")
    assert weights.state_hash(model.state_dict()) == weights.state_hash(good)


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (pickle.dumps({"w": np.zeros(3)}), UsageError, "a plain Python pickle and not a torch checkpoint"),
        (pickle.dumps({"w": 1}, protocol=2), UsageError, "a plain Python pickle and not a torch checkpoint"),
        (pickle.dumps({"w": 1}, protocol=0), IntegrityError, "not a whole torch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", UsageError, "a Git LFS pointer"),
        (b"<!doctype html><title>404</title>", IntegrityError, "not a whole torch checkpoint"),
        (b"\x80", IntegrityError, "not a whole torch checkpoint"),
        (b"", IntegrityError, "not a whole torch checkpoint"),
        (b"PK\x03\x04 and no more", IntegrityError, "not a whole torch checkpoint"),
    ],
)
def test_weights_that_are_none_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, error: type[PipelineError], sentence: str
) -> None:
    for name in ("w.pth", "w.pt", "w.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=sentence) as caught:
            weights.read_state(tmp_path / name)
        assert "weights_only" not in str(caught.value) and "arbitrary code" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_of_a_checkpoint_brings_out_torchs_advice_or_another_error(tmp_path: Path) -> None:
    chance = np.random.default_rng(7)
    for old in (False, True):
        torch.save(
            {"model": {"w": torch.arange(5.0)}, "n": [1, 2]}, tmp_path / "w", _use_new_zipfile_serialization=not old
        )
        whole = (tmp_path / "w").read_bytes()
        for _ in range(60):
            damaged = bytearray(whole[: chance.integers(len(whole) // 2, len(whole) + 1)])
            damaged[int(chance.integers(len(damaged)))] ^= 1 << int(chance.integers(8))
            (tmp_path / "w.pth").write_bytes(damaged)
            try:
                weights.read_state(tmp_path / "w.pth")
            except PipelineError as error:
                assert "weights_only" not in str(error)


def test_a_torch_checkpoint_named_safetensors_is_read_as_what_it_is(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert weights.read_state(tmp_path / "w.safetensors")["w"].tolist() == [1.0, 1.0]
