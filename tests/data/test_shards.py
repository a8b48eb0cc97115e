"""The reader: block arithmetic, and no damaged byte ever becomes a sample."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.listing import Split
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Sample, Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.errors import IntegrityError, PipelineError, RetryError, UsageError
from tests.support.hostile import Evil
from tests.support.inputs import entries

CONFIG = DataConfig(source="folder", shard_size=8, block=4)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    pack_splits(CONFIG, ("a", "b", "c"), {"train": Split(entries(23)), "val": Split(entries(3))}, out, 1)
    return out / "train"


@pytest.fixture
def root(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path / "train")
    return tmp_path / "train"


def samples(shards: Shards) -> list[Sample]:
    return [sample for block in shards.blocks for sample in shards.read(block)]


def read_all(root: Path) -> list[Sample]:
    return samples(Shards.open(root))


def test_blocks_cover_every_row_once_and_the_last_may_be_odd(packed: Path) -> None:
    shards = Shards.open(packed)
    assert (shards.samples, shards.shard_size, shards.block_size, len(shards.names)) == (23, 8, 4, 3)
    assert [block.samples for block in shards.blocks] == [4, 4, 4, 4, 4, 3]
    rows = [block.row + i for block in shards.blocks for i in range(block.samples)]
    assert rows == list(range(23))
    assert [block.index for block in shards.blocks] == list(range(6))
    assert all(block.row == 8 * block.shard + block.first for block in shards.blocks)


def test_read_labels_and_keys_agree_with_what_was_packed(packed: Path) -> None:
    shards = Shards.open(packed)
    known = {entry.key: entry for entry in entries(23)}
    for block in shards.blocks:
        found = shards.read(block)
        assert [s.key for s in found] == shards.keys(block)
        assert shards.labels(block).dtype == np.int64 and [s.label for s in found] == shards.labels(block).tolist()
        for sample in found:
            assert (sample.data, sample.label) == (known[sample.key].data, known[sample.key].label)


def test_a_reader_works_pickled_and_in_another_process(packed: Path) -> None:
    shards = Shards.open(packed)
    expected = samples(shards)
    assert samples(pickle.loads(pickle.dumps(shards))) == expected
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(samples, (shards,)) == expected


def test_no_flipped_byte_of_a_tar_becomes_a_sample(root: Path) -> None:
    whole = read_all(root)
    generator = np.random.default_rng(0)
    path = root / "000001.tar"
    clean = path.read_bytes()
    samples_end = 8 * (512 + 512 + 512 + 512)
    for _ in range(150):
        data = bytearray(clean)
        at = int(generator.integers(samples_end))
        data[at] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"000001.tar: sample 'k/\d+' \(row \d\): its bytes have changed"):
            read_all(root)
    path.write_bytes(clean)
    assert read_all(root) == whole


def test_cut_empty_missing_swapped_and_foreign_tars_are_refused(root: Path) -> None:
    tars = [root / name for name in ("000000.tar", "000001.tar", "000002.tar")]
    first, second = tars[0].read_bytes(), tars[1].read_bytes()
    for content in (first[:-1], first + b"\0", b"", second):
        tars[0].write_bytes(content)
        with pytest.raises(IntegrityError, match=r"000000\.tar"):
            read_all(root)
    tars[0].unlink()
    with pytest.raises(IntegrityError, match=r"000000.tar: No such file.*stages.shard"):
        read_all(root)


@pytest.mark.parametrize("pattern", ["*.tar", "index/*"])
def test_pipes_and_endless_files_are_refused_before_they_are_read(root: Path, pattern: str) -> None:
    path = sorted(root.glob(pattern))[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match="expected a file, found a device, pipe or socket"):
        read_all(root)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(IntegrityError, match="expected a file, found a device, pipe or socket"):
        read_all(root)


def test_no_changed_index_is_read(root: Path) -> None:
    path = root / "index" / "000000.npz"
    clean = path.read_bytes()
    for content in (clean[:-1], b"", clean.replace(b"k/1", b"k/2"), (root / "index" / "000001.npz").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"000000\.npz"):
            read_all(root)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"000000\.npz: No such file"):
        Shards.open(root).labels(Shards.open(root).blocks[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "other"),
        ("version", 2),
        ("samples", 22),
        ("samples", "23"),
        ("shard_size", 16),
        ("block", None),
        ("split", "test"),
        ("unknown", 1),
        ("shards", []),
    ],
)
def test_an_edited_manifest_is_refused_by_field(root: Path, field: str, value: object) -> None:
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(IntegrityError, match=r"manifest.json.*stages.shard"):
        Shards.open(root)


def test_shard_names_can_not_leave_the_directory(root: Path) -> None:
    path = root / "manifest.json"
    for name in ("../../x.tar", "000001.tar"):
        manifest = json.loads(path.read_text())
        manifest["shards"][0]["name"] = name
        path.write_text(json.dumps(manifest))
        with pytest.raises(IntegrityError):
            Shards.open(root)


def test_cut_and_random_manifests_raise_only_our_errors(root: Path) -> None:
    path = root / "manifest.json"
    clean = path.read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(200):
        data = bytearray(clean[: generator.integers(1, len(clean))] if generator.integers(2) else clean)
        for at in generator.integers(len(data), size=2):
            data[at] = generator.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(PipelineError):
            Shards.open(root)


def test_a_missing_split_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest.json: No such file.*python -m stages.shard"):
        Shards.open(tmp_path)


def _columns(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _saved(**columns: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


def _packed(**columns: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["pickled", "no zip", "cut", "raw pickle", "no column", "other type", "short", "label", "outside", "overlap", "bomb"]
)  # fmt: skip
def test_an_index_that_is_none_is_damage_though_its_hash_is_the_manifests(
    root: Path, tmp_path: Path, kind: str
) -> None:
    path, marker = root / "index" / "000000.npz", tmp_path / "marker"
    columns, whole = _columns(path), path.read_bytes()
    rows = len(columns["offsets"])
    contents: dict[str, Callable[[], bytes]] = {
        "pickled": lambda: _saved(**{**columns, "keys": np.array([Evil(marker)] * rows, dtype=object)}),
        "no zip": lambda: b"hello",
        "cut": lambda: whole[:-40],
        "raw pickle": lambda: pickle.dumps(Evil(marker)),
        "no column": lambda: _saved(**{name: column for name, column in columns.items() if name != "sizes"}),
        "other type": lambda: _saved(**{**columns, "labels": columns["labels"].astype(np.float64)}),
        "short": lambda: _saved(**{name: column[:-1] for name, column in columns.items()}),
        "label": lambda: _saved(**{**columns, "labels": columns["labels"] + 1}),
        "outside": lambda: _saved(**{**columns, "sizes": columns["sizes"] + (np.arange(rows) == rows - 1) * 10**7}),
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


def test_shards_that_a_dvc_repro_removes_or_replaces_end_a_job_with_75(packed: Path, tmp_path: Path) -> None:
    root = tmp_path / "shards" / "train"
    shutil.copytree(packed, root)
    opened, other = Shards.open(root), packed.parent / "val"
    tar, manifest = (root / "000000.tar").read_bytes(), (root / "manifest.json").read_bytes()
    (root / "000000.tar").unlink()
    with pytest.raises(IntegrityError, match=r"000000\.tar: No such file"):  # the manifest is as it was: damage
        opened.read(opened.blocks[0])
    (root / "manifest.json").unlink()
    with pytest.raises(RetryError, match=r"removed or replaced .*most likely by a dvc repro.*--shards") as found:
        opened.read(opened.blocks[0])
    assert found.value.exit_code == 75
    shutil.rmtree(root)
    shutil.copytree(other, root)
    with pytest.raises(RetryError, match="removed or replaced"):
        opened.read(opened.blocks[0])
    (root / "manifest.json").write_bytes(manifest)
    (root / "000000.tar").write_bytes(tar)
    index_file = root / "index" / "000000.npz"
    index_file.unlink()
    with pytest.raises(IntegrityError, match=r"000000\.npz: No such file"):
        Shards.open(root).read(opened.blocks[0])
