"""Which jobs a chain has, what is refused before any is submitted, and what is recorded."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.cluster import slurm, submit
from pipeline.cluster.config import EXAMPLE, load_cluster
from pipeline.cluster.script import JOBS, sbatch_text
from pipeline.runtime.code import ROOT
from pipeline.runtime.config import validate
from pipeline.runtime.errors import UsageError

WHERE, CLUSTER = load_cluster(ROOT / EXAMPLE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder: what dvc.yaml and params.yaml say, without code and outputs."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / JOBS).mkdir(parents=True)
    return tmp_path


def test_a_chain_has_what_its_students_need(root: Path) -> None:
    made = submit.jobs(submit.Chain.load(root, ["hard"]), CLUSTER, root / "copy.yaml")
    names = [job.name for job in made]
    assert set(names) == {"shard", "teacher@regnety_digits", "label@digits", "precompute@digits", "train@hard",
                          "answers@regnety_digits", "evaluate@hard", "record"}  # fmt: skip
    jobs = {job.name: job for job in made}
    assert ("afterany", "label@digits") in jobs["precompute@digits"].after and jobs["label@digits"].width == 16
    assert {how for how, _ in jobs["train@hard"].after} == {"afterok"} and names[-1] == "record"
    everything = [job.name for job in submit.jobs(submit.Chain.load(root, []), CLUSTER, root / "copy.yaml")]
    assert "report" in everything and "evaluate@plain" in everything
    with pytest.raises(UsageError, match=r"no student 'hart'; params.yaml has plain, soft, hard, hard_token"):
        submit.Chain.load(root, ["hart"])


def test_what_is_whole_is_not_submitted_until_somebody_replaces_it(root: Path) -> None:
    chain = submit.Chain.load(root, ["plain"])
    for name in chain.stages:
        for out in chain.graph.stages[name].outs:
            (root / out).mkdir(parents=True, exist_ok=True)
    for name, key in chain.keys().items():
        (root / JOBS / f"{name}.done").write_text(f"{key}\n")
    assert submit.jobs(chain, CLUSTER, root / "copy.yaml") == []
    later = (root / JOBS / "train@plain.done").stat().st_mtime + 5
    os.utime(root / "work/students/plain", (later, later))
    names = [job.name for job in submit.jobs(chain, CLUSTER, root / "copy.yaml")]
    assert names == ["train@plain", "evaluate@plain", "record"]


def test_nothing_is_recorded_after_a_change(root: Path) -> None:
    (root / JOBS / "shard.done").write_text("another key\n")
    with pytest.raises(UsageError, match=r"shard: params.yaml, code, images or outputs have changed"):
        submit.record(submit.Chain.load(root, ["plain"]))


def test_a_script_is_shell_and_quotes_what_it_is_given(root: Path) -> None:
    made = submit.jobs(submit.Chain.load(root, ["hard"]), CLUSTER, root / "copy.yaml")
    (job,) = (job for job in made if job.name == "train@hard")
    text = sbatch_text(job, CLUSTER.train, root / "it's", root, {"DATA_ROOT": "/a b", "DISTIL_WORKERS": "3", "X": "y"})
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "#SBATCH --gres=gpu:8\n" in text and "export DATA_ROOT='/a b'" in text and "X=" not in text
    assert "run python -m stages.train --student hard --params" in text and "--account" not in text


def test_what_would_fail_in_the_queue_is_refused_with_its_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"sinfo": "echo 'cpu|1:00:00'; echo 'gpu|infinite'", "sacctmgr": "echo lab"}.items():
        (root / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}:/usr/bin:/bin")
    wrong = yaml.safe_load((ROOT / EXAMPLE).read_text())
    wrong["train"] |= {"gpus": 3, "partition": "gpus"}
    wrong["label"]["account"] = "other"
    cluster = validate(submit.ClusterConfig, wrong, "cluster.yaml")
    with pytest.raises(UsageError) as refusal:
        submit.require_cluster(submit.Chain.load(root, ["hard"]), cluster, Path("cluster.yaml"))
    said = str(refusal.value)
    for sentence in (
        "cluster.yaml: train.nodes x train.gpus: world size 3 does not divide trainings.digits.lanes",
        "cluster.yaml: train.partition: no 'gpus' here; sinfo shows cpu, gpu",
        "cluster.yaml: cpu.time: 12:00:00 is above the limit of partition cpu",
        "cluster.yaml: label.account: 'other' is none of yours; sacctmgr shows lab",
    ):
        assert sentence in said, said
    assert slurm.accounts() == {"lab"}
