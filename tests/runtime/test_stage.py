"""Exit codes and messages of the stages, ranks and workers from the environment."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import IdentityError, IntegrityError, RetryError, UsageError
from pipeline.runtime.libraries import slow
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


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("shapes"), KeyError("a")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    @stage
    def command() -> None:
        raise error

    with pytest.raises(type(error)):
        command()


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
