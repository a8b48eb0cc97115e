"""Files that are none of ours, though their names say so: each gets the exit code and the sentence of what it is."""

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline.base import files, weights
from pipeline.cache.layout import Layout
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.data.listing import Split
from pipeline.data.pack import pack
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from pipeline.student.export import load, read_log, require_trained_for
from pipeline.training import checkpoint
from pipeline.training.journal import Journal
from pipeline.views.recipe import Recipe
from stages import index, report
from tests.data.test_pack import entries
from tests.runtime.test_text import EVIL
from tests.support import fake_teacher as fake

DEEP = b"[" * 100_000
LONG = b"9" * 5000


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "shards"
    splits = {"train": Split(entries(8)), "val": Split(entries(3, "v"))}
    pack(DataConfig(source="folder", shard_size=4, block=2), ("$5", "猫", EVIL.replace("\udcff", "")), splits, out, 1)
    return out


# Documents


@pytest.mark.parametrize("content", [DEEP, b'{"a":' * 70 + b"1" + b"}" * 70, LONG, b"", b"{", b"\xff", b"[1]]"])
def test_json_that_is_none_of_ours_is_a_valueerror(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        files.parse_json(content)


def test_json_of_ours_is_read_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "x", {"b": [[]]}], "c": {}}
    assert files.parse_json(files.canonical_json(value)) == value
    assert files.parse_json(b"5") == 5


BAD = {"deep": DEEP, "long number": b'{"samples": ' + LONG + b"}", "a list": b"[]", "a number": b"5", "cut": b'{"a": 1'}


@pytest.mark.parametrize("kind", BAD)
def test_every_document_of_ours_that_is_none_is_damage(shards: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    (tmp_path / "shards" / "train" / "manifest.json").write_bytes(BAD[kind])
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        Shards.open(tmp_path / "shards" / "train")
    shape = Layout(samples=8, classes=3, shard_size=4, block=2, group=1, codec="none")
    pool = fake.filled(tmp_path / "pool", shape, 1)
    publish(pool, tmp_path / "cache", 1, 10**9)
    publish(pool, tmp_path / "receipt", 1, 0)
    record = tmp_path / "cache" / "commits" / "0" / "0.json"
    for path in (
        tmp_path / "cache" / "zarr.json",
        tmp_path / "receipt" / "receipt.json",
        record,
        pool.path / "identity.json",
    ):
        whole = path.read_bytes()
        path.write_bytes(BAD[kind])
        where = path.parent if path != record else tmp_path / "cache"
        with pytest.raises(IntegrityError):
            opened = open_cache(where)
            opened.read(opened.block(0), 0)
        path.write_bytes(whole)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model.safetensors").touch()
    (tmp_path / "student" / "config.json").write_bytes(BAD[kind])
    with pytest.raises(IntegrityError, match=r"config\.json"):
        require_trained_for(tmp_path / "student", ["a"], Recipe(seed=0, size=8))
    if kind in ("deep", "long number", "cut"):  # the others are timm's to judge
        with pytest.raises(IntegrityError, match=r"config\.json"):
            load(tmp_path / "student")
    result = CliRunner().invoke(report.main, ["--show", str(tmp_path / "student" / "config.json")])
    assert result.exit_code == 2 and "not a summary of stages.report" in result.output


@pytest.mark.parametrize(
    "text", ["[" * 1_000, "{a: " * 100_000, "- " * 100_000 + "x", f"a: {LONG.decode()}", "a: &a [*a]", "? [a]\n: b", "a: \x1b"]
)  # fmt: skip
def test_yaml_that_is_none_of_ours_is_usage(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    result = CliRunner().invoke(index.main, ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "i")])
    assert result.exit_code == 2 and result.output.endswith("exit code 2\n"), result.output[-500:]


# Indices


def _columns(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _saved(**columns: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    "kind", ["pickled", "no zip", "cut", "raw pickle", "no column", "other type", "short", "label", "outside", "overlap", "bomb"]
)  # fmt: skip
def test_an_index_that_is_none_is_damage_though_its_hash_is_the_manifests(
    shards: Path, tmp_path: Path, kind: str
) -> None:
    root = Path(shutil.copytree(shards / "train", tmp_path / "train"))
    path, marker = root / "index" / "000000.npz", tmp_path / "marker"
    columns, whole = _columns(path), path.read_bytes()
    last = len(columns["offsets"]) - 1
    contents: dict[str, Callable[[], bytes]] = {
        "pickled": lambda: _saved(**{**columns, "keys": np.array([Evil(marker)] * 4, dtype=object)}),
        "no zip": lambda: b"hello",
        "cut": lambda: whole[:-40],
        "raw pickle": lambda: pickle.dumps(Evil(marker)),
        "no column": lambda: _saved(**{name: column for name, column in columns.items() if name != "sizes"}),
        "other type": lambda: _saved(**{**columns, "labels": columns["labels"].astype(np.float64)}),
        "short": lambda: _saved(**{name: column[:-1] for name, column in columns.items()}),
        "label": lambda: _saved(**{**columns, "labels": columns["labels"] + 1}),
        "outside": lambda: _saved(**{**columns, "sizes": columns["sizes"] + (np.arange(4) == last) * 10**7}),
        "overlap": lambda: _saved(**{**columns, "offsets": columns["offsets"][::-1]}),
        "bomb": lambda: _packed(**{**columns, "more": np.zeros(10**6)}),
    }
    path.write_bytes(contents[kind]())
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["shards"][0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (root / "manifest.json").write_text(json.dumps(manifest))
    opened = Shards.open(root)
    with pytest.raises(IntegrityError, match=r"000000\.npz: not the index of 000000\.tar: .*; write the shards again"):
        opened.read(opened.blocks[0])
    assert not marker.exists()


def _packed(**columns: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


# Tables


@pytest.mark.parametrize(
    "content", [b"", b"epoch,step\n1,2\n", b"epoch,step,task,live_fraction,val_top1\n1,3,0.5,0", b"\xff\xfe\0", LONG]
)
def test_a_log_that_is_none_is_damage_and_a_journal_that_is_none_begins_anew(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = content.replace(b"epoch,step\n", b"epoch,step\n1,").replace(LONG, b"step\n" + LONG)
    (tmp_path / "log.csv").write_bytes(content + b"\n1,x\n")
    with pytest.raises(IntegrityError, match=r"log\.csv: not the log of a training"):
        read_log(tmp_path)
    (tmp_path / "log.csv").unlink()
    with pytest.raises(UsageError, match=r"log\.csv: No such file"):
        read_log(tmp_path)
    (tmp_path / "speed.csv").write_bytes(rows + b"\n1,x\n")
    journal = Journal("t", tmp_path, 5)
    journal.close()
    assert journal.rows == [] and "not the speeds of this run" in capsys.readouterr().out


# Weights and checkpoints


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
