"""The loop: one job on a run."""

import errno
from pathlib import Path

import pytest

from pipeline.training import loop


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with loop.exclusive(tmp_path):
        pass
    assert "no locks on this file system" in capsys.readouterr().out
