"""cluster.yaml: strict, every key described, its example whole."""

from pathlib import Path

import pytest

from pipeline.cluster.config import EXAMPLE, ClusterConfig, JobKind, load_cluster
from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import UsageError


def test_the_example_is_whole_and_the_page_describes_every_key() -> None:
    _, cluster = load_cluster(ROOT / EXAMPLE)
    assert cluster.train.nodes * cluster.train.ranks == 8 and cluster.cpu.ranks == 1
    page = (ROOT / "docs/CLUSTER.md").read_text()
    assert all(f"`{name}`" in page for name in [*JobKind.model_fields, *ClusterConfig.model_fields])


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("  partition: cpu ", "  partitions: cpu ", "cpu.partitions: unknown key"),
        ('time: "48:00:00"', "time: 48", "train.time: "),
        ("  array: 16", "  array: 0", "label.array: "),
        ("  nodes: 1", "  nodes: 1\n  array: 2", "train.array: only label is an array; remove the key"),
        ("  partition: cpu ", "  partition: 'a b' ", "cpu.partition: "),
        ("  sbatch: []", "  sbatch: ['rm -rf']", "train.sbatch.0: "),
    ],
)
def test_what_is_wrong_is_named_by_its_key(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    text = (ROOT / EXAMPLE).read_text()
    assert old in text
    (tmp_path / "cluster.yaml").write_text(text.replace(old, new))
    with pytest.raises(UsageError, match="cluster") as refusal:
        load_cluster(tmp_path / "cluster.yaml")
    assert sentence in str(refusal.value)


def test_without_the_file_its_example_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_CLUSTER", str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match=r"none.yaml: no such file; copy configs/slurm/cluster.yaml"):
        load_cluster()
