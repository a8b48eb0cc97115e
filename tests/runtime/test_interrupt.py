"""Ctrl-C while a stage starts: one sentence and 130, whatever is being imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.code import ROOT
from pipeline.runtime.interrupt import end_quietly_at_once


@pytest.mark.parametrize("slow", ["click", "torch"])
def test_an_interrupted_import_ends_with_a_sentence_and_130(slow: str, tmp_path: Path) -> None:
    (tmp_path / f"{slow}.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "stages.evaluate", "--student", "s"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as started:
        assert started.stdout is not None and started.stdout.readline() == "importing\n"
        started.send_signal(signal.SIGINT)
        said = started.communicate()[1]
    assert started.returncode == 130
    assert said == "error: interrupted; run the same command to go on\nexit code 130\n"


def test_a_program_that_imports_the_stages_keeps_its_own_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    end_quietly_at_once()
    assert signal.getsignal(signal.SIGINT) is before
