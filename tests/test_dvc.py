"""The graph as DVC sees it: every configuration gives a whole graph, and what a change reruns."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.planning.params import compose, write
from pipeline.runtime.code import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The committed code, dvc.yaml and configuration in a folder of its own, without data."""
    for name in ("pipeline", "stages", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    return tmp_path


def dvc(where: Path, *arguments: str) -> str:
    found = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=where, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_imagenet_configuration_prints_the_whole_graph(project: Path) -> None:
    choices = ["data=imagenet", "student=deit_tiny,deit_small_plain"]
    write(compose(project / "configs", choices), project / "params.yaml", choices)
    # --force: without it DVC 3.67 looks into its run cache first and stumbles over data that is not there yet
    printed = dvc(project, "repro", "--dry", "--force")
    stages = ["index", "shard", "teacher@regnety_160", "precompute@imagenet", "answers@regnety_160", "report"]
    stages += [f"{stage}@{name}" for stage in ("train", "evaluate") for name in ("deit_tiny", "deit_small_plain")]
    for stage in stages:
        assert f"'{stage}'" in printed, stage
    alone = dvc(project, "repro", "--dry", "--force", "train@deit_small_plain")
    assert "precompute" not in alone and "teacher@" not in alone  # an undistilled student waits for no teacher
