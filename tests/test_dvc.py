"""The graph as DVC sees it: every configuration gives a whole graph, and what a change reruns."""

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

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


def rows() -> list[tuple[str, set[str]]]:
    """The table of ARCHITECTURE.md: a file of each folder, and the stages that rerun when it changes."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    found = re.findall(r"^\| `((?:pipeline|stages)/[^`]*)` \| (.*?) \|$", text, re.M)
    return [(path, set() if stages == "nothing" else set(stages.split(", "))) for path, stages in found]


def test_the_table_has_a_file_of_every_folder() -> None:
    folders = {f"pipeline/{path.name}" for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").is_file()}
    assert {str(Path(path).parent) for path, _ in rows()} >= folders | {"stages"}


def test_a_change_reruns_what_the_table_says_and_clutter_reruns_nothing(project: Path) -> None:
    """DVC's own status, in a project whose outputs are placeholders that DVC was told to take as they are."""
    choices = ["test_set=crop_090"]
    write(compose(project / "configs", choices), project / "params.yaml", choices)
    shutil.copy(ROOT / ".dvcignore", project)
    with contextlib.chdir(project):
        repo = Repo(".")
        for stage in repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                if path.suffix:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(str(out))
                else:
                    path.mkdir(parents=True, exist_ok=True)
                    (path / "content").write_text(str(out))
        for name in (
            "teachers.regnety_digits.weights",
            *(f"students.{s}.initial" for s in "plain soft hard hard_token".split()),
        ):
            (project / "work/weights" / name).write_text("none")
        (project / "work/listings/crop_090.tsv").write_text("none")
        repo.commit(force=True)
        assert reruns(repo) == set()
        for clutter in (".x.py.swp", "x.py~", ".ipynb_checkpoints/x-checkpoint.txt", "__pycache__/x.pyc", "notes.txt"):
            for folder in ("pipeline/views", "stages"):
                (project / folder / clutter).parent.mkdir(exist_ok=True)
                (project / folder / clutter).write_text("x")
        assert reruns(repo) == set()
        for path, stages in rows():
            kept = (project / path).read_bytes()
            (project / path).write_bytes(kept + b"\n")
            assert reruns(repo) == stages, path
            (project / path).write_bytes(kept)


def reruns(repo: Repo) -> set[str]:
    """The stages whose own dependencies changed; index, which always runs, counts only where its code did."""
    found = set()
    for stage, changes in repo.status().items():
        if any(isinstance(change, dict) and "changed deps" in change for change in changes):
            found.add(stage.partition("@")[0])
    return found
