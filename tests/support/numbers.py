"""Looks up every number of a report's page where the page says that it comes from.

A number is a word of digits. Those in code, in names (a class may be called 7), in citations and on the axes of figures,
which are a scale, are no results; every other one must stand in an element with ``data-source``.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"(?<![\w.-])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w-])")
_VOID = {"meta", "link", "img", "br", "path", "circle", "wbr"}


class _Page(HTMLParser):
    """Texts with the tags and attributes around them."""

    def __init__(self) -> None:
        super().__init__()
        self.around: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, list[tuple[str, dict[str, str | None]]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.around.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.around and self.around.pop()[0] != tag:
            pass

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((data, list(self.around)))


def check(work: Path, settings: Path) -> tuple[int, list[str]]:
    """How many numbers of ``work/report/index.html`` were looked up, and the texts with a number of no source.

    Raises AssertionError where the source says something else than the page.
    """
    page, looked_up, bare = _Page(), 0, []
    page.feed((work / "report" / "index.html").read_text(encoding="utf-8"))
    files: dict[str, Any] = {}
    for text, around in page.texts:
        source = next((attrs for _, attrs in reversed(around) if "data-source" in attrs), None)
        if source is not None:
            said = str(source["data-source"])
            file, _, pointer = said.partition("#")
            if file not in files:
                files[file] = json.loads((work / file).read_text(encoding="utf-8"))
            value = files[file]
            for key in pointer.split("/")[1:]:
                key = key.replace("~1", "/").replace("~0", "~")
                value = value[int(key) if isinstance(value, list) else key]
            factor = float(source.get("data-scale") or 1)
            expected = format(value * factor if factor != 1 else value, source.get("data-style") or "")
            assert text == expected, f"{said}: the page says {text!r}, the file {expected!r}"
            looked_up += 1
        elif _NUMBER.search(text) and not any(_no_result(tag, attrs) for tag, attrs in around):
            bare.append(text)
    settings_shown = [text for text, around in page.texts if text == settings.read_text(encoding="utf-8")]
    assert len(settings_shown) == 1, "params.yaml stands on the page as it is"
    return looked_up, bare


def _no_result(tag: str, attrs: dict[str, str | None]) -> bool:
    kind = attrs.get("class") or ""
    return tag in ("code", "pre", "cite", "style", "title") or kind in ("name", "axis")
