"""Slurm's commands are asked with a limit, and no answer is believed unread."""

from pathlib import Path

import pytest

from pipeline.cluster import slurm
from pipeline.runtime.errors import RetryError, UsageError


@pytest.fixture
def bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def program(bin: Path, name: str, text: str) -> None:
    (bin / name).write_text(f"#!/bin/sh\n{text}\n")
    (bin / name).chmod(0o755)


def test_nonsense_silence_and_refusals_are_sentences(bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bin, "squeue", "echo Welcome to the cluster")
    with pytest.raises(UsageError, match="squeue: printed 'Welcome to the cluster', which is not its format"):
        slurm.queue()
    program(bin, "sbatch", "echo 'sbatch: error: Invalid qos specification' >&2; exit 1")
    with pytest.raises(UsageError, match="sbatch: Invalid qos specification"):
        slurm.submit("", "")
    program(bin, "sbatch", "true")
    with pytest.raises(UsageError, match="printed no job id"):
        slurm.submit("", "")
    monkeypatch.setenv("DISTIL_TIMEOUT", "1")
    program(bin, "squeue", "sleep 5")
    with pytest.raises(RetryError, match="squeue: no answer in 1 s"):
        slurm.queue()


def test_without_slurm_a_sentence_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no Slurm on this machine \(sinfo is not on PATH\)"):
        slurm.limits()


def test_answers_are_read(bin: Path) -> None:
    program(bin, "squeue", "echo '12|PENDING|train@hard ab /x y'; echo '13|RUNNING|'")
    assert slurm.queue() == {"train@hard ab /x y": ("12", "PENDING"), "": ("13", "RUNNING")}
    program(bin, "sinfo", "echo 'cpu|infinite'; echo 'gpu|2-00:00:00'")
    assert slurm.limits() == {"cpu": float("inf"), "gpu": 172800.0}
    assert [slurm.seconds(text) for text in ("30:00", "1:00:00", "1-12", "45")] == [1800, 3600, 129600, 45]
