"""The HTML page, which needs no network. Every number on it names the file and key that it was read from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.base.files import write_durably
from pipeline.report import figures
from pipeline.report.pictures import SMALL
from pipeline.runtime.errors import UsageError
from pipeline.runtime.text import printable

SUMMARY = "report/summary.json"


class Documents:
    """The JSON files below ``work`` that the page's numbers come from, each read once; ``summary`` is not written yet."""

    def __init__(self, work: Path, summary: Mapping[str, Any]) -> None:
        self.work = work
        self.read: dict[str, Any] = {SUMMARY: summary}

    def find(self, file: str, keys: tuple[str | int, ...]) -> Any:
        """The value under ``keys`` of ``file``. Raises KeyError, IndexError or OSError where there is none."""
        if file not in self.read:
            self.read[file] = json.loads((self.work / file).read_bytes())
        value = self.read[file]
        for key in keys:
            value = value[int(key) if isinstance(value, list) else key]
        return value

    def number(self, file: str, *keys: str | int, style: str = "", scale: float = 1.0) -> Markup:
        """The value as an element that says where it comes from: ``data-source`` is the file and a JSON pointer
        (RFC 6901), ``data-style`` Python's format, ``data-scale`` a factor. Nothing where it is null."""
        value = self.find(file, keys)
        if value is None:
            return Markup("–")
        pointer = "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)
        scaled = "" if scale == 1.0 else f' data-scale="{scale:g}"'
        source = f'data-source="{escape(f"{file}#{pointer}")}" data-style="{style}"{scaled}'
        return Markup(f"<data {source}>{escape(shown(value, style, scale))}</data>")

    def interval(self, file: str, *keys: str | int) -> Markup:
        """The two ends of an interval in percent."""
        low, high = (self.number(file, *keys, end, style=".1f") for end in (0, 1))
        return Markup("<small>{} to {}</small>").format(low, high)


def shown(value: Any, style: str, scale: float) -> str:
    """How the page writes a value."""
    return format(value * scale if scale != 1.0 else value, style)


def render(work: Path, summary: Mapping[str, Any], **content: Any) -> str:
    """The page. ``content``: what the template shows besides ``summary``."""
    documents = Documents(work, summary)
    environment = _environment()
    environment.globals |= {"n": documents.number, "interval": documents.interval, "S": SUMMARY}
    template = environment.get_template("page.html")
    return template.render(summary=summary, figures=drawn(summary, content["curves"]), **content)


def write_views(out: Path, rows: list[list[dict[str, str]]], recipe: str, size: int) -> None:
    """The page of ``pictures.views`` under the recipe of this name and size in pixels, as the file ``out``. Raises
    UsageError for another suffix than .html."""
    if out.suffix != ".html":
        raise UsageError(f"--out: views are written as an HTML page; expected a name that ends in .html, found {out}")
    template = _environment().get_template("views.html")
    write_durably(out, template.render(rows=rows, recipe=recipe, pixelated=size <= SMALL).encode())


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    found.filters |= {
        "svg": Markup,
        "lines": lambda text: escape(printable(text, lines=True)),
        "breakable": _breakable,
    }
    return found


def _safe(value: Any) -> Any:
    """Text of users, such as names of classes, with control characters escaped; markup of the template stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break behind an underscore."""
    return Markup("_<wbr>").join(escape(part) for part in printable(name).split("_"))


def drawn(summary: Mapping[str, Any], curves: Mapping[str, figures.Series]) -> dict[str, list[tuple[str, str]]]:
    """The page's figures, by section: (title, SVG)."""
    names = ", ".join(summary["students"])
    found = {
        "curves": [
            (title, figures.lines(series, "epoch", "", f"{title} by epoch, one line for each of {names}"))
            for title, series in curves.items()
            if any(series.values())
        ]
    }
    layers = {name: of["layers"] for name, of in summary["tokens"].items()}
    tokens = {name: [(float(x), y) for x, y in enumerate(layers.get(name, []))] for name in summary["students"]}
    about = "Mean cosine of class and distillation token at the input and after each layer"
    low = min([0.0, *(y for points in tokens.values() for _, y in points)])
    last = max([1.0, *(x for points in tokens.values() for x, _ in points)])
    found["tokens"] = [("Tokens", figures.lines(tokens, "layer", "cosine", about, box=((0.0, low), (last, 1.0))))]
    calibration = {
        name: [(entry["confidence"], entry["accuracy"]) for entry in bins]
        for name, bins in summary["calibration"].items()
    }
    about = "Share of right answers by confidence; on the diagonal both are equal"
    square = ((0.0, 0.0), (1.0, 1.0))
    found["calibration"] = [
        ("Calibration", figures.lines(calibration, "confidence", "right", about, diagonal=True, box=square))
    ]
    classes = {
        name: [(float(i), value) for i, value in enumerate(sorted(value for value in of if value is not None))]
        for name, of in summary["per_class"].items()
    }
    about = "Accuracy of each class in percent, from the worst class to the best"
    found["classes"] = [("Accuracy by class", figures.lines(classes, "classes, worst first", "% right", about))]
    found["cost"] = _costs(summary)
    return found


def _costs(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    students = summary["students"]
    size = {name: (entry["parameters"] / 1e6, entry["top1"]) for name, entry in students.items()}
    speeds = {name: summary["seconds"].get(f"evaluate:{name}", {}).get("images_per_second") for name in students}
    speed = {name: (speeds[name] or 0.0, entry["top1"]) for name, entry in students.items()}
    found = [("Against parameters", figures.points(size, "million parameters", "top-1 %", "Top-1 by parameters"))]
    if all(speeds.values()):
        about = "Top-1 by throughput"
        found.append(("Against throughput", figures.points(speed, "images per second", "top-1 %", about)))
    return found
