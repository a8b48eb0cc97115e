"""Any text made safe to print: a name can neither drive a terminal nor pass for another one."""

import os
import signal
import sys
import unicodedata
from collections.abc import Sequence
from typing import TextIO

_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji are spelled with them
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, bidi and other invisible ones, lone surrogates, line separators


def printable(text: str, lines: bool = False) -> str:
    """``text`` with every control character as a visible escape such as ``\\x1b`` or ``\\u202e``; newlines stay where
    ``lines`` says that the text has several."""
    if lines:
        return "\n".join(map(printable, text.split("\n")))
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _harmless(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _HIDDEN


def show(text: str, stream: TextIO | None = None) -> None:
    """Prints ``text`` to ``stream`` (standard output), safe and in what the stream can encode. Ends the process quietly, with
    the code of SIGPIPE, where nobody reads on, as after ``| head``."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    safe = printable(text, lines=True).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(safe, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what Python flushes at its end
        sys.exit(128 + signal.SIGPIPE)


def whole_number(text: str) -> int | None:
    """The whole number that ``text`` is in at most 18 plain digits; None for anything else. Python's own ``int`` takes
    signs, underscores and digits of all scripts, and raises ValueError above 4,300 digits."""
    return int(text) if len(text) <= 18 and text.isascii() and text.isdecimal() else None


def clipped(text: str, most: int) -> str:
    """``text`` in at most ``most`` characters, the last one an ellipsis where it was longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shortened(name: str, most: int) -> str:
    """``name`` in at most ``most`` characters, cut in its middle: names of one kind differ at their ends."""
    head = most // 2
    return name if len(name) <= most else f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def few_names(names: Sequence[str], most: int = 8) -> str:
    """The first ``most`` names in quotes, and how many more there are."""
    return few([repr(name) for name in names], most)


def few(texts: Sequence[str], most: int = 8, between: str = ", ") -> str:
    """The first ``most`` texts, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more
