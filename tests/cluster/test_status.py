"""What is said of stages, loops, parts and jobs, and that files that are damaged or huge only cost a sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.files import canonical_json, digest
from pipeline.cache.layout import NamedCache, file_key, record_key
from pipeline.cluster.script import JOBS
from pipeline.cluster.status import Run, document, table
from pipeline.runtime.code import ROOT
from pipeline.runtime.progress import RUNNING, progress


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder: what dvc.yaml and params.yaml say, without code and outputs."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "pool").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    return tmp_path


def told(root: Path) -> str:
    return "\n".join(table(Run.load(root, root / "pool")))


def command(root: Path, name: str, text: str) -> None:
    (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (root / "bin" / name).chmod(0o755)


def test_before_anything_is_there_it_says_what_is_next(root: Path) -> None:
    said = told(root)
    assert said.startswith("0 of ") and said.endswith("next: index; nothing runs: dvc repro")
    for out in Run.load(root, root / "pool").graph.stages["shard"].outs:
        (root / out).mkdir(parents=True)
    assert re.search(r"^shard +there$", told(root), re.M)
    (root / JOBS).mkdir(parents=True)
    (root / JOBS / "shard.done").write_text("key\n")
    assert re.search(r"^shard +made$", told(root), re.M)


def test_a_loop_is_shown_at_its_stage_and_goes_when_it_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/stages/train.py", "--student", "hard", "--params", "copy.yaml"])
    with progress("hard", 20, "steps", every=0.0, done=4) as tick:
        tick(1)
        tick(2, "epoch 1: loss 1.9, val_top1 0.4, 800 images/s, waiting 3%")
        said = told(root).splitlines()
        at = next(i for i, line in enumerate(said) if line.startswith("train@hard "))
        assert said[at].endswith("  running") and "hard: 7/20 steps" in said[at + 1] and "loss 1.9" in said[at + 1]
        assert not any(line.startswith("train@hard_token") and "running" in line for line in said)
        [left] = (root / "pool" / RUNNING).glob("*.json")
        old = json.loads(left.read_text())
        left.write_text(json.dumps(old | {"time": old["time"] - 3600}))
        assert "no sign for 1 h from process" in told(root) and "silent" in told(root)
        for out in Run.load(root, root / "pool").graph.stages["train@hard"].outs:
            (root / out).mkdir(parents=True)
        (root / JOBS).mkdir()
        (root / JOBS / "train@hard.done").write_text("key\n")
        assert re.search(r"^train@hard +made$", told(root), re.M) and "no sign" not in told(root)
    assert not list((root / "pool" / RUNNING).iterdir()) and "hard: 7/20" not in told(root)


def test_parts_are_counted_by_listing_and_without_torch(root: Path) -> None:
    wanted = NamedCache.load(root / "params.yaml", "digits")
    layout = {"samples": 7400 * 256, "shard_size": 256, "group": 33, "codec": "f16"}
    identity = {"recipe": wanted.recipe.model_dump(mode="json"), "layout": layout}
    pool = root / "pool/caches" / digest(identity)[:12]
    (pool / "commits/0").mkdir(parents=True)
    (pool / "identity.json").write_bytes(canonical_json(identity))
    for shard in range(7000):
        (pool / record_key((0, shard))).touch()
    (pool / "staging").mkdir()
    (pool / "staging" / file_key("hard", (0, 7000)).replace("/", "-")).touch()
    code = (
        "import sys; from pathlib import Path; from pipeline.cluster.status import Run, table; "
        f"print(table(Run.load(Path({str(root)!r}), Path({str(root / 'pool')!r})))); "
        "assert not {'torch', 'timm', 'zarr'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0, said.stderr
    assert "7000 of 7400 parts, 1 being written" in said.stdout and "left" in said.stdout


def test_jobs_their_restarts_and_their_last_error_are_shown(root: Path) -> None:
    jobs = root / JOBS
    jobs.mkdir(parents=True)
    command(root, "squeue", f"echo '7|RUNNING|train@hard key {root}'; echo '8|PENDING|train@soft key /elsewhere'")
    command(root, "sacct", "echo '5|FAILED'")
    (jobs / ".train@hard-7.restarts").write_text("2 0 0\n")
    (jobs / "shard-5.log").write_text("packing\nerror: DATA_ROOT: no such folder\nexit code 2\nbye\n")
    with (jobs / "train@hard-7.log").open("wb") as huge:
        huge.truncate(2 << 30)
    said = told(root)
    assert "job 7 train@hard: RUNNING, 2 restarts" in said and "job 8" not in said
    assert "job 5 shard: FAILED" in said and f"{jobs / 'shard-5.log'}: error: DATA_ROOT: no such folder" in said


def test_what_is_damaged_costs_a_sentence(root: Path) -> None:
    command(root, "squeue", "echo nonsense")
    (root / "pool" / RUNNING).mkdir()
    numbers = {"time": 1, "done": 1, "total": 2, "per_s": 0, "command": ["/x/shard.py"]}
    others = {"e": json.dumps(numbers).encode(), "f": json.dumps(numbers | {"title": "t", "saved": "x"}).encode()}
    for name, content in ({"a": b"", "b": b"[1]", "c": b'{"command": 3}', "d": b"\xff\x00"} | others).items():
        (root / "pool" / RUNNING / f"{name}.json").write_bytes(content)
    broken = root / "pool/caches/0123456789ab"
    broken.mkdir(parents=True)
    (broken / "identity.json").write_text("{}")
    (root / "dvc.lock").write_text("- a list\n")
    said = told(root)
    assert said.count(f"{root / 'pool' / RUNNING}") == 6 and "jobs: not known: squeue: printed 'nonsense'" in said
    for out in Run.load(root, root / "pool").graph.stages["shard"].outs:
        (root / out).mkdir(parents=True)
    for lock in ("stages: 3", "stages:", "stages: {shard: 3}", "stages: {shard: {params: [1]}}"):
        (root / "dvc.lock").write_text(lock)
        assert "dvc.lock" in told(root) or lock == "stages:"
    assert json.loads(json.dumps(document(Run.load(root, root / "pool"))))["next"] == "index"
