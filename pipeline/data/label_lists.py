"""Text files of users: class names, one a line, and lists of images with their classes.

They may have a byte order mark and any line ends, and be in UTF-8, UTF-16 or Latin-1.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.data.listing import File, Problems, changed
from pipeline.runtime.text import clipped

_TWO_BYTES = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(root: Path, file: File, problems: Problems) -> list[tuple[int, str]] | None:
    """The stripped lines of a text file with their numbers from 1, without empty lines at the end. None, and a problem, if it
    is no text, can't be read, or has changed since the listing."""
    path = root / file.path
    if reason := changed(root, file):  # before it is read: it is a file, and as large as it was
        problems.damage(f"{file.path!r}: {reason}")
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.damage(f"{file.path!r}: can't be read: {error.strerror}")
        return None
    text = _decoded(content, file.path, problems)
    if text is None:
        return None
    lines = [line.strip() for line in re.split("\r\n|\n|\r", text)]
    while lines and not lines[-1]:
        lines.pop()
    return list(enumerate(lines, start=1))


def _decoded(content: bytes, name: str, problems: Problems) -> str | None:
    if not content.startswith(_TWO_BYTES) and b"\0" in content:
        problems.damage(f"{name!r}: not a text file, it holds zero bytes; fetch it again")
        return None
    try:
        return content.decode("utf-16" if content.startswith(_TWO_BYTES) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        problems.damage(f"{name!r}: line {line}: neither UTF-8 nor Latin-1; save it as UTF-8")
        return None
    problems.warn(f"{name!r}: line {line} is not UTF-8, so it is read as Latin-1; save it as UTF-8 if names look wrong")
    return text


def read_class_names(root: Path, file: File, problems: Problems) -> tuple[str, ...] | None:
    """Class names in label order, one a line; None if names are empty or repeated, which are problems with line numbers."""
    lines = read_lines(root, file, problems)
    if lines is None:
        return None
    before = problems.count
    if not lines:
        problems.usage(f"{file.path!r}: names no class; expected one name a line, in label order")
    for number, name in lines:
        if not name:
            problems.usage(f"{file.path!r}: line {number} is empty; expected a name, the one of label {number - 1}")
    _once(file.path, [(number, name) for number, name in lines if name], problems)
    return tuple(name for _, name in lines) if problems.count == before else None


def read_pairs(file: File, lines: list[tuple[int, str]], problems: Problems) -> dict[str, str]:
    """Image name to class from lines of both, separated by white space or a comma. A line of another form, or an image
    named twice, is a problem with its line number."""
    found: dict[str, str] = {}
    names: list[tuple[int, str]] = []
    for number, line in lines:
        parts = re.split(r"[\s,]+", line)
        if not line:
            continue
        if len(parts) != 2:
            shown = clipped(repr(line), 80)
            problems.damage(f"{file.path!r}: not a label list: line {number}: expected image and class, found {shown}")
            return {}
        found[parts[0]] = parts[1]
        names.append((number, parts[0]))
    _once(file.path, names, problems)
    return found


def _once(path: str, names: list[tuple[int, str]], problems: Problems) -> None:
    first: dict[str, int] = {}
    for number, name in names:
        if (other := first.setdefault(unicodedata.normalize("NFC", name), number)) != number:
            problems.usage(f"{path!r}: {name!r} stands in line {other} and in line {number}; remove or rename one")


Lookalikes = Mapping[str, list[str]]


def lookalikes(names: Iterable[str]) -> Lookalikes:
    """``names`` by what a person reads: without Unicode form, case and white space."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(_folded(name), []).append(name)
    return found


def difference_of(name: str, there: Lookalikes) -> str:
    """How ``name`` differs from one of ``there`` that looks the same to a person; "" if there is none."""
    others = [other for other in there.get(_folded(name), []) if other != name]
    for other in others:
        if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
            return f"{other!r} is there, which only has another Unicode form: {other!a} and not {name!a}"
    for other in others:
        return f"{other!r} is there, which differs in white space, case or form: {other!a} and not {name!a}"
    return ""


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
