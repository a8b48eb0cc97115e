"""Exit codes and messages of the stages, ranks and workers from the environment."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import IdentityError, IntegrityError, RetryError, UsageError
from pipeline.runtime.libraries import slow
from pipeline.runtime.machine import device, distributed, workers
from pipeline.runtime.progress import progress
from pipeline.runtime.stage import stage


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a"), 2),
        (IntegrityError("b"), 3),
        (IdentityError("c"), 4),
        (RetryError("d"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_refusal_is_one_sentence_and_its_exit_code_is_in_the_last_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @stage
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        command()
    lines = capsys.readouterr().err.splitlines()
    assert left.value.code == code
    assert lines[0].startswith("error: ") and lines[-1] == f"exit code {code}"


def test_other_errors_keep_their_traceback() -> None:
    @stage
    def command() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        command()


def test_workers_are_what_is_asked_for_else_all_cores_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_WORKERS", "5")
    assert workers() == 5
    monkeypatch.setenv("DISTIL_WORKERS", "-1")
    with pytest.raises(UsageError, match="DISTIL_WORKERS: expected a whole number from 0 to 4096, found '-1'"):
        workers()
    monkeypatch.delenv("DISTIL_WORKERS")
    monkeypatch.setattr("pipeline.runtime.machine.cores", lambda: 8)
    assert workers() == 7


def test_progress_in_a_job_log_is_plain_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("label", 2, "parts") as tick:
        tick()
        tick(note="last")
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines()[-1].startswith("label: 2/2 parts, ")


def test_a_timeout_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("DISTIL_TIMEOUT", "abc")
    with (
        pytest.raises(UsageError, match="DISTIL_TIMEOUT: expected a whole number from 1 to 2592000, found 'abc'"),
        distributed(),
    ):
        pass


def test_a_device_without_an_index_is_this_rank_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_DEVICE", "cuda")
    monkeypatch.setenv("LOCAL_RANK", "7")
    if torch.cuda.device_count() > 7:
        assert device() == torch.device("cuda:7")
    else:
        with pytest.raises(UsageError, match="device cuda:7: this machine has"):
            device()


@pytest.mark.parametrize("name", ["mps", "meta", "gpu", "cuda:x"])
def test_a_device_that_stages_do_not_know_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DISTIL_DEVICE", name)
    with pytest.raises(UsageError, match=f"DISTIL_DEVICE: expected cpu, cuda or cuda:N, found '{name}'"):
        device()


OTHER_SYSTEM = """
import os, sys
del os.memfd_create
sys.modules["resource"] = None
"""  # as on Windows; macOS has the second
EVERY_STAGE = """
import importlib, pathlib
mains = [importlib.import_module(f"stages.{path.stem}").main for path in pathlib.Path("stages").glob("[a-z]*.py")]
commands = [command for main in mains for command in getattr(main, "commands", {"": main}).values()]
for command in commands:
    try:
        command.callback()
    except SystemExit as end:
        assert end.code == 2
print(len(commands))
"""


def test_on_macos_and_windows_every_stage_ends_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_SYSTEM)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", EVERY_STAGE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * int(done.stdout) > 20
    assert set(lines[::2]) == {lines[0]} and "without os.memfd_create; use Linux (WSL 2 on Windows" in lines[0]
    assert set(lines[1::2]) == {"exit code 2"}


def test_a_checksum_library_without_its_compiled_part_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert slow() == []
    for name in [name for name in sys.modules if name.startswith("google_crc32c")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google_crc32c._crc32c", None)
    assert "pip install --force-reinstall --only-binary=google-crc32c google-crc32c" in slow()[0]
