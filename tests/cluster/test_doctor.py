"""Each lack of a project is one finding that says what to do; nothing ends in a traceback."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cluster.config import EXAMPLE
from pipeline.cluster.doctor import examine
from pipeline.runtime.code import ROOT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, and a PATH with nothing of Slurm's or a driver's."""
    for name in ("params.yaml", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def found(root: Path, pool: str = "pool", **environment: str) -> dict[str, list[tuple[str, str]]]:
    """(state, text) of the findings, by the name of the check."""
    findings: dict[str, list[tuple[str, str]]] = {}
    for of in examine(root, root / pool, environment):
        findings.setdefault(of.name, []).append((of.state, of.text))
    return findings


def command(root: Path, name: str, text: str) -> None:
    (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (root / "bin" / name).chmod(0o755)


def test_here_nothing_stops_a_run(root: Path) -> None:
    stops = [(name, text) for name, of in found(root).items() for state, text in of if state == "stop"]
    assert not stops
    assert found(root)["gpu"] == [("note", "none (no nvidia-smi): everything is computed on the CPU")]
    assert "in the pool and published" in found(root)["space"][0][1] and not list((root).glob(".doctor*"))


def test_params_that_are_absent_or_wrong_stop_a_run(root: Path) -> None:
    (root / "params.yaml").write_text("students: 3\n")
    assert found(root)["params.yaml"][0][0] == "stop"
    (root / "params.yaml").unlink()
    [(state, text)] = found(root)["params.yaml"]
    assert state == "stop" and "params.yaml" in text and found(root)["python"][0][0] == "ok"


def test_images_that_are_not_there_stop_a_run(root: Path) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["data"] |= {"source": "folder", "classes": None, "expected": None}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    assert "DATA_ROOT is not set" in found(root)["data"][0][1]
    assert found(root, DATA_ROOT=str(root / "nowhere"))["data"][0] == (
        "stop",
        f"{root / 'nowhere'}: No such file or directory",
    )
    assert found(root, DATA_ROOT=str(root))["data"][0][0] == "ok"


def test_a_pool_that_cannot_be_written_stops_a_run(root: Path) -> None:
    [(state, text)] = found(root, "../../../../../../../../../../proc/pool")["pool"]
    assert state == "stop" and "can't be written" in text and "set DISTIL_POOL" in text
    assert found(root, "uv.lock")["pool"][0][0] == "stop"


@pytest.mark.parametrize(
    ("script", "state", "text"),
    [
        ("echo 'NVIDIA H100, 80000, 81559, 550.1'", "ok", "NVIDIA H100: 83.9 GB of 85.5 GB free, driver 550.1"),
        ("echo 'NVIDIA H100, 100, 81559, 550.1'", "note", "NVIDIA H100: 105 MB of 85.5 GB free, driver 550.1"),
        ("echo 'GB10, [N/A], [N/A], 580.1'", "ok", "GB10, which shares the machine's memory, driver 580.1"),
        ("echo nonsense", "stop", "nvidia-smi: nonsense"),
        ("echo 'Failed to initialize NVML' >&2; exit 9", "stop", "nvidia-smi: Failed to initialize NVML"),
    ],
)
def test_a_driver_is_believed_as_far_as_it_speaks(root: Path, script: str, state: str, text: str) -> None:
    command(root, "nvidia-smi", script)
    assert found(root)["gpu"][0] == (state, text)


def test_other_libraries_than_locked_are_named(root: Path) -> None:
    lock = (root / "uv.lock").read_text()
    (root / "uv.lock").write_text(lock.replace('name = "click"\nversion = "', 'name = "click"\nversion = "9'))
    [(state, text)] = found(root)["libraries"]
    assert state == "note" and "click" in text and "uv sync --frozen" in text
    (root / "uv.lock").write_text("<<<<<<< HEAD")
    [(state, text)] = found(root)["libraries"]
    assert state == "stop" and "restore it: git checkout uv.lock" in text


def test_what_slurm_does_not_know_is_named_by_its_key(root: Path) -> None:
    command(root, "sbatch", "exit 0")
    assert "no cluster.yaml" in found(root)["slurm"][0][1]
    shutil.copy(ROOT / EXAMPLE, root / "cluster.yaml")
    command(root, "sinfo", "echo 'cpu|infinite'")
    texts = [text for state, text in found(root)["slurm"] if state == "stop"]
    assert "cluster.yaml: train.partition: no 'gpu' here; sinfo shows cpu" in texts
    command(root, "sinfo", "echo nonsense")
    assert "not its format" in found(root)["slurm"][0][1]


def test_the_command_ends_with_2_where_something_stops(root: Path) -> None:
    (root / "params.yaml").unlink()
    run = [sys.executable, "-m", "stages.doctor"]
    done = subprocess.run(run, cwd=root, env={"PYTHONPATH": str(ROOT), "PATH": "/bin"}, capture_output=True, text=True)
    assert done.returncode == 2 and "params.yaml STOP" in done.stdout and "Traceback" not in done.stderr
