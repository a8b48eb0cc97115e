"""One HTML page without any network need, and the same numbers as JSON."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from pipeline.base.files import write_durably
from pipeline.data.shards import Shards
from pipeline.report import gallery, lettering
from pipeline.runtime.text import printable
from pipeline.student.export import read_log
from pipeline.views.recipe import Recipe

_TEMPLATE = Path(__file__).with_name("page.html")


def write(work: Path, cache: str | None, recipe: Recipe, summary: Mapping[str, Any], out: Path) -> None:
    """``index.html`` and ``summary.json`` in ``out``; views of ``recipe``, with the answers in ``cache`` where there is one."""
    train, val = Shards.open(work / "shards" / "train"), Shards.open(work / "shards" / "val")
    path = work / "caches" / cache if cache is not None else None
    grid = gallery.cells(train, recipe, path, block=0, samples=6, first_view=0, views=6)
    environment = Environment(
        autoescape=True, finalize=lambda value: printable(value) if isinstance(value, str) else value
    )
    environment.filters["pct"] = lambda value: "" if value is None else f"{value:.2f}"
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        samples=train.samples,
        val_samples=val.samples,
        classes=len(train.classes),
        curves=_png(_curves(work / "students", list(summary["students"]))),
        views=_png(gallery.figure(grid)),
        **summary,
    )
    write_durably(out / "index.html", page.encode())
    write_durably(out / "summary.json", json.dumps(summary, indent=1).encode() + b"\n")


def _curves(students: Path, names: list[str]) -> Figure:
    picture = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = picture.subplots(1, 2)
    for name, shown in zip(names, lettering.names_of(names, "student")):
        rows = read_log(students / name)
        epochs = np.array([float(row["epoch"]) for row in rows])
        left.plot(epochs, [float(row["task"]) for row in rows], label=shown)
        scored = [row["val_top1"] != "" for row in rows]
        right.plot(epochs[scored], [100 * float(row["val_top1"]) for row in rows if row["val_top1"]], label=shown)
    left.set(xlabel="epoch", ylabel="cross-entropy of the class head", title="Training loss (label term)")
    right.set(xlabel="epoch", ylabel="%", title="Validation top-1")
    lettering.write(right.legend().get_texts())
    return picture


def _png(picture: Figure) -> str:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
