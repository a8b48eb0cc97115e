"""Progress: plain lines in a job's log, a bar on a terminal."""

import io
import sys

import pytest

from pipeline.runtime.progress import progress


def test_progress_in_a_job_log_is_plain_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("label", 2, "parts") as tick:
        tick()
        tick(note="last")
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines()[-1].startswith("label: 2/2 parts, ")


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
