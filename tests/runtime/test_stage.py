"""Exit codes and messages of the stages, ranks and workers from the environment."""

import errno

import pytest
import torch

from pipeline.runtime.errors import IdentityError, IntegrityError, RetryError, UsageError
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
