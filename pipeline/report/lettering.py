"""Names in pictures: as plain text, in a font that has their glyphs, or else by number."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from pipeline.runtime.text import clipped, printable

_BASE = "DejaVu Sans"  # comes with matplotlib
_NOT_WRITTEN = "\u200c\u200d"  # joiners have no glyph of their own
_LONGEST = 28  # characters of a name under a picture 1.9 inches wide


def names_of(names: Sequence[str], kind: str = "class") -> tuple[str, ...]:
    """How names are written on this machine: control characters as escapes, long names cut, and a name with a character
    that no font has as its ``kind`` and number. Fonts are looked through only for characters that the usual one lacks."""
    shown = [clipped(printable(name), _LONGEST) for name in names]
    known = frozenset(_NOT_WRITTEN).union(*map(_characters, _families("".join(shown))))
    return tuple(name if known.issuperset(name) else f"{kind} {number}" for number, name in enumerate(shown))


def write(texts: Iterable[Text]) -> None:
    """Makes matplotlib take the characters of ``texts`` as they are ($ is no formula), in fonts that have them."""
    texts = list(texts)
    families = _families("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_parse_math(False)
        text.set_fontfamily(families)


def _families(text: str) -> list[str]:
    return [_BASE, *_fonts_for(frozenset(text) - _characters(_BASE) - set(_NOT_WRITTEN))]


def _fonts_for(missing: frozenset[str]) -> list[str]:
    """Families that have as many of the missing characters as this machine can offer; the one with the most first."""
    chosen: list[str] = []
    # Not matplotlib's own fonts of placeholders and of formulas, whose glyphs are not what their codes say.
    there = sorted({entry.name for entry in fontManager.ttflist if not entry.name.startswith(("Last Resort", "cm"))})
    while missing:
        having = {family: len(missing & _characters(family)) for family in there}
        best = max(there, key=lambda family: having[family], default="")
        if not having.get(best):
            break
        chosen.append(best)
        missing -= _characters(best)
    return chosen


@lru_cache(4096)
def _characters(family: str) -> frozenset[str]:
    """The characters that a family's upright face has; none where its glyphs are no outlines (colour emoji)."""
    faces: Iterable = (entry for entry in fontManager.ttflist if entry.name == family)
    face = min(
        faces, key=lambda entry: (entry.style != "normal", abs(_weight(entry.weight) - 400), entry.fname), default=None
    )
    try:
        if face is None:
            return frozenset()
        place = {"face_index": face.index} if getattr(face, "index", 0) else {}  # several faces in one file
        font = FT2Font(face.fname, **place)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError, TypeError):  # a font file that is gone or broken
        return frozenset()


def _weight(weight: object) -> int:
    return weight if isinstance(weight, int) else 400
