"""What the system refuses of users' paths, disks and limits: one sentence with the path and what names it."""

import errno
import gc
import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.planning.params import compose
from pipeline.runtime.code import ROOT
from pipeline.runtime.config import write_yaml
from pipeline.runtime.stage import stage
from pipeline.runtime.system_errors import explain
from pipeline.views.ring import Ring, RingSize


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ELOOP, 2, "it is a link that leads back to itself; correct the path"),
        (errno.ENAMETOOLONG, 2, "File name too long; correct the path"),
        (errno.ENOTDIR, 2, "a file stands where a directory is expected"),
        (errno.EBUSY, 2, "it is a mount point"),
        (errno.EROFS, 2, "Read-only file system; correct the path or its permissions"),
        (errno.EINVAL, 2, "Invalid argument; correct the path"),
        (errno.EIO, 3, "the disk, or the network before it, fails"),
        (errno.ESTALE, 75, "run the same command again"),
        (errno.ENOSPC, 75, "free some space"),
        (errno.EFBIG, 2, "raise ulimit -f"),
        (errno.EMFILE, 2, "raise ulimit -n"),
    ],
)
def test_each_refusal_of_a_path_says_what_it_is(number: int, code: int, text: str) -> None:
    found = explain(OSError(number, os.strerror(number), "/data/a\x1b[31m"), {})
    assert found is not None and found.exit_code == code
    assert "/data/a\\x1b[31m" in str(found) and text in str(found) and "\n" not in str(found)


def test_errors_of_the_program_are_no_refusals() -> None:
    assert explain(OSError(errno.EBADF, "Bad file descriptor"), {}) is None
    assert explain(RuntimeError("shapes differ"), {}) is None


def test_the_sentence_names_the_option_the_variable_or_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(f"teachers: {{t: {{weights: {tmp_path}/w/t.pth}}}}\n")
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))
    monkeypatch.setenv("DATA_ROOT", "~/nobody")
    options = {"params": params, "work": tmp_path / "here", "name": "s", "out": None, "path": tmp_path / "x"}
    where = {
        tmp_path / "here" / "students" / "s": "(--work)",
        tmp_path / "pool" / "runs": "(DISTIL_POOL)",
        tmp_path / "w" / "t.pth": f"(teachers.t.weights in {params})",
        Path("~/nobody/train").expanduser(): "(DATA_ROOT)",
    }
    for path, name in where.items():
        assert f"{path} {name}: " in str(explain(PermissionError(errno.EACCES, "no", str(path)), options))
    assert f"{tmp_path}/x/y: no" in str(explain(PermissionError(errno.EACCES, "no", f"{tmp_path}/x/y"), options))


STAGES = {
    "train": ["--student", "plain"],
    "fit_teacher": ["--teacher", "t"],
    "precompute": ["--cache", "c"],
    "index": [],
    "shard": [],
    "plan": [],
    "report": [],
}
PATHS = [
    *((name, [*arguments, "--params"], {}) for name, arguments in STAGES.items()),
    ("configure", ["--check", "--params"], {}),
    ("configure", ["--configs"], {}),
    ("shard", ["--params", "params.yaml", "--index"], {}),
    ("plan", ["--params", "params.yaml", "--shards"], {}),
    ("train", ["--student", "plain", "--params", "params.yaml", "--shards"], {}),
    ("train", ["--student", "plain", "--params", "params.yaml", "--work"], {}),
    ("report", ["--show"], {}),
    ("inspect", ["cache"], {}),
    ("inspect", ["views", "--recipe", "digits", "--params", "params.yaml", "--work"], {}),
    ("index", ["--params", "folder.yaml"], {"DATA_ROOT": ""}),
    ("test_set", ["--test-set", "t", "--params"], {}),
]


@pytest.mark.parametrize("bad", ["loop", "x" * 5000], ids=["loop", "long"])
def test_links_in_circles_and_endless_names_end_every_stage_with_a_sentence(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_yaml(compose(ROOT / "configs", ["student=plain"]))
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "folder.yaml").write_text(text.replace("source: digits", "source: folder"))
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    gc.freeze()  # each refusal collects garbage, which takes long beside torch
    for name, arguments, variables in PATHS:
        given = [*arguments, bad] if not variables else arguments
        environment = dict.fromkeys(variables, bad)
        found = CliRunner().invoke(import_module(f"stages.{name}").main, given, env=environment)
        assert isinstance(found.exception, SystemExit), (name, given, found.exception)
        assert found.exit_code == 2 and len(found.output.strip().splitlines()) == 2, (name, given, found.output)
    gc.unfreeze()


def test_a_limit_on_files_is_named_and_not_the_lanes(capsys: pytest.CaptureFixture[str]) -> None:
    @stage
    def command() -> None:
        Ring(RingSize(1, 2, 1, 1 << 20, 1 << 16, 3))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(SystemExit) as left:
            command()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left.value.code == 2 and "raise ulimit -f" in capsys.readouterr().err


LOCKS = """
import multiprocessing
from pipeline.runtime.stage import stage
stage(lambda: [multiprocessing.Lock() for _ in range(20)])()
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount namespace of its own",
)
@pytest.mark.parametrize(("how", "cause"), [("size=4k", "4,096 bytes are free"), ("ro", "read-only")])
def test_a_small_or_read_only_shm_is_named(how: str, cause: str) -> None:
    script = f"mount -t tmpfs -o {how} tmpfs /dev/shm && exec '{sys.executable}' -c '{LOCKS}'"
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: /dev/shm: {cause}, and processes share locks there; mount it writable" in done.stderr
