"""Names that try something: text shows their characters, and nothing reaches the terminal raw."""

import errno
import io
import os

import pytest

from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import progress, say
from pipeline.runtime.stage import stage
from pipeline.runtime.text import printable, show
from tests.support.hostile import EVIL, SHOWN


def test_control_characters_are_shown_and_letters_of_all_languages_stay() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("one\ntwo\x00", lines=True) == "one\ntwo\\x00" and printable("one\ntwo") == "one\\ntwo"
    plain = "Katze 猫 قطة बिल्ली می\u200cخواهم 😀 $5 café cafe\u0301 a\u00a0b"
    assert printable(plain) == plain
    assert not set(printable("".join(map(chr, range(0xA0))))) - set(map(chr, range(32, 127)))


def test_every_door_to_the_terminal_shows_what_would_drive_it(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"class {EVIL}")

    @stage
    def command() -> None:
        raise UsageError(EVIL)

    @stage
    def opened() -> None:
        raise OSError(errno.EACCES, "Permission denied", EVIL)

    for one in (command, opened):
        with pytest.raises(SystemExit):
            one()
    with progress(EVIL, 1, "parts") as tick:
        tick(note=EVIL)
    found = capsys.readouterr()
    assert not set("\x1b\x9b\r\u202e\u2066\u200b\udcff") & set(found.out + found.err)
    assert found.out == f"class {SHOWN}\n".replace(r"\n", "\n") and f"{SHOWN}: Permission denied" in found.err


def test_a_stream_of_another_coding_gets_escapes_and_no_error() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show("猫 \x1b ü", stream)
    assert raw.getvalue() == rb"\u732b \x1b \xfc" + b"\n"


def test_nobody_who_reads_on_ends_the_process_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, pytest.raises(SystemExit) as left:
        show("a line", stream)
    assert left.value.code == 141
