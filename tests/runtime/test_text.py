"""Names that try something: text, pictures and pages show their characters, and nothing reaches the terminal raw."""

import errno
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from pipeline.report import inspect_views, lettering
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import progress, say
from pipeline.runtime.stage import stage
from pipeline.runtime.text import printable, show
from tests.support.hostile import EVIL, SHOWN

# Text that is printed


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


def test_a_stream_of_another_coding_gets_escapes_and_no_error() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show("猫 \x1b ü", stream)
    assert raw.getvalue() == rb"\u732b \x1b \xfc" + b"\n"


# Pictures and pages


def ink(title: str, answer: str = "") -> np.ndarray:
    """The pixels of a picture of one black view with these texts."""
    figure = inspect_views.figure([[inspect_views.Cell(np.zeros((4, 4, 3), np.float32), title, answer)]])
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=60)
    return np.asarray(Image.open(buffer).convert("L"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", ["$5", "$$", "$5 0.3 mix $10", r"$\frac$", r"\$", "a_b^c", "<b>&", r"a\x1b\n", "قطة"])
def test_a_name_is_drawn_as_its_characters(title: str) -> None:
    assert (ink(title) != ink("")).any()
    figure = inspect_views.figure([[inspect_views.Cell(np.zeros((4, 4, 3), np.float32), title, title)]])
    [place] = figure.axes
    assert (
        place.title.get_text() == title and not place.title.get_parse_math() and not place.xaxis.label.get_parse_math()
    )


def small_font(path: Path, characters: str) -> None:
    """A font whose glyph for each of ``characters`` is a black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(character):x}" for character in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(character): f"u{ord(character):x}" for character in characters})
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(path)


@pytest.mark.filterwarnings("error")
def test_a_name_whose_glyphs_no_font_has_is_a_number_and_one_whose_font_is_there_is_drawn(tmp_path: Path) -> None:
    classes = ["猫", "犬\U0001f600", EVIL, "x" * 300]
    there = {entry.name for entry in fontManager.ttflist}
    if not any("CJK" in name for name in there):
        assert lettering.names_of(classes)[0] == "class 0"
    assert lettering.names_of(["ant", "\ue123\U000f1234"]) == ("ant", "class 1")
    assert lettering.names_of(classes)[2:] == (f"{SHOWN[:27]}…", f"{'x' * 27}…")
    small_font(tmp_path / "squares.ttf", "猫\ue123")
    fontManager.addfont(tmp_path / "squares.ttf")
    try:
        assert lettering.names_of(["ant", "猫\ue123", "\ue123\U000f1234"]) == ("ant", "猫\ue123", "class 2")
        assert (ink("猫\ue123猫\ue123") < 128).sum() > (ink("....") < 128).sum() + 50
    finally:
        fontManager.ttflist[:] = [entry for entry in fontManager.ttflist if entry.name != "Squares"]
