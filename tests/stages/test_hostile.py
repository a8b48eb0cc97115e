"""Files that are none of ours, though their names say so: each gets the exit code and the sentence of what it is."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cache.layout import Layout
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.data.listing import Split
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig
from pipeline.runtime.errors import IntegrityError
from pipeline.student.export import load_student, require_trained_for
from pipeline.views.recipe import Recipe
from stages import report
from tests.support import fake_teacher as fake
from tests.support.hostile import DEEP, EVIL, LONG
from tests.support.inputs import entries


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "shards"
    splits = {"train": Split(entries(8)), "val": Split(entries(3, "v"))}
    pack_splits(
        DataConfig(source="folder", shard_size=4, block=2), ("$5", "猫", EVIL.replace("\udcff", "")), splits, out, 1
    )
    return out


# Documents


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
            load_student(tmp_path / "student")
    result = CliRunner().invoke(report.main, ["--show", str(tmp_path / "student" / "config.json")])
    assert result.exit_code == 2 and "not a summary of stages.report" in result.output


# Indices


# Tables


# Weights and checkpoints
