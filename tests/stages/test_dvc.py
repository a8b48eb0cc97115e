"""The graph as DVC sees it: every configuration gives a whole graph, and what a change reruns."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.cli import main as dvc_main
from dvc.repo import Repo

from pipeline.planning.params import compose, write_params
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
    write_params(compose(project / "configs", choices), project / "params.yaml", choices)
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
    write_params(compose(project / "configs", choices), project / "params.yaml", choices)
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
            "teachers.regnety_digits.initial",
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


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def placed(repo: Repo, students: dict[str, float]) -> None:
    """Placeholders as all outputs, with the metrics, curves and answers of ``students`` (their top-1)."""
    for stage in repo.index.stages:
        for out in stage.outs:
            path = Path(out.fs_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.suffix:
                path.mkdir(exist_ok=True)
                (path / "content").write_text(str(out))
            elif path.parent.name not in ("metrics", "curves", "confusion"):
                path.write_text(str(out))
    for key in (
        "teachers.regnety_digits.weights",
        "teachers.regnety_digits.initial",
        *(f"students.{name}.initial" for name in students),
    ):
        Path(f"work/weights/{key}").write_text("none")
    for name, top1 in students.items():
        Path(f"work/metrics/{name}.json").write_text(json.dumps({"top1": top1, "loss": 1.5}))
        rows = [f"{epoch},2,1,0.5,0.1,{top1 / 100}" for epoch in (1, 2)]
        Path(f"work/curves/{name}.csv").write_text("\n".join(["epoch,loss,task,distill,lr,val_top1", *rows]) + "\n")
        Path(f"work/confusion/{name}.csv").write_text("label,answer\n1,1\n1,7\n")


def test_dvcs_own_commands_show_and_compare_whatever_students_there_are(
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """metrics, plots, exp show and artifacts get, after ``configure`` with other students, by a remote and a tag."""

    monkeypatch.setenv("DVC_TEST", "true")  # else colorama takes the output back from who captures it

    def said(*arguments: str) -> str:  # in this process, which has imported DVC already
        capsys.readouterr()
        assert dvc_main(list(arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    choices = ["student=plain,hard"]
    write_params(compose(project / "configs", choices), project / "params.yaml", choices)
    with contextlib.chdir(project):
        git("init", "-q", "-b", "main")
        said("config", "core.no_scm", "false")
        (project / ".gitignore").write_text("/work\n")
        said("remote", "add", "-d", "store", str(tmp_path_factory.mktemp("remote")))
        for number, top1 in enumerate((90.0, 92.5)):
            repo = Repo(".")
            placed(repo, {"plain": top1, "hard": top1 + 1})
            repo.commit(force=True)
            git("add", "-A")
            git("commit", "-q", "-m", f"run {number}")
            if number == 0:
                git("tag", "-a", "students@v1.0.0", "-m", "the first students")
                said("push", "-q")
        shown = json.loads(said("metrics", "show", "--json"))[""]["data"]
        assert {Path(name).stem: entry["data"]["top1"] for name, entry in shown.items()} == {
            "plain": 92.5,
            "hard": 93.5,
        }
        changed = json.loads(said("metrics", "diff", "HEAD~1", "--json"))["work/metrics/hard.json"]
        assert changed == {"top1": {"old": 91.0, "new": 93.5, "diff": 2.5}}
        for arguments in (["show"], ["diff", "HEAD~1"]):
            plots = json.loads(said("plots", *arguments, "--json"))["data"]
            drawn = json.dumps(plots)
            assert all(name in drawn for name in ("work/curves", "work/confusion", "val_top1")), arguments
        columns = said("exp", "show", "--csv").splitlines()[0].split(",")
        assert sum(name.endswith((".json:top1", ".json:loss")) for name in columns) == 4
        said("artifacts", "get", str(project), "students", "--rev", "v1.0.0", "-o", "got")
        assert (project / "got/hard/content").read_text() == "work/students/hard"
