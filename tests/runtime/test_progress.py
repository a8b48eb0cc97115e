"""Progress: plain lines in a job's log, a bar on a terminal."""

import io
import sys

import pytest

import pipeline.runtime.progress as progress_module
from pipeline.runtime.progress import progress


def test_progress_in_a_job_log_is_plain_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("label", 2, "parts") as tick:
        tick()
        tick(note="last")
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines()[-1].startswith("label: 2/2 parts, ")


def test_time_left_is_of_the_last_lines_and_a_resume_counts_what_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first tick pays for compiling, 100 s; then a step takes a second, and later two."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with progress("s", 1000, "steps", done=400) as tick:
        for seconds in (100.0, *[1.0] * 100, *[2.0] * 100):
            now[0] += seconds
            tick(note="epoch 1: loss 2.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "s: 401/1000 steps, 0.01/s  epoch 1: loss 2.5"
    assert lines[1] == "s: 411/1000 steps, 1/s, 9 min 49 s left  epoch 1: loss 2.5"
    assert lines[-1] == "s: 601/1000 steps, 0.5/s, 13 min 18 s left  epoch 1: loss 2.5"


def test_a_bar_on_a_terminal_shows_escapes_and_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress("[red]x\x9b\u202e[/red]", 1, "[b]parts") as tick:
        tick(note="[bold]n\u202e")
    written = sys.stderr.getvalue()
    assert not set("\x9b\u202e") & set(written)
    for text in (r"[red]x\x9b\u202e[/red]", "[b]parts", r"[bold]n\u202e"):
        assert text in written
