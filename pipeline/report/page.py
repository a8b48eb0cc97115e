"""One HTML page without any network need, and the same numbers as JSON."""

import base64
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from pipeline.base.files import write_durably
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Shards
from pipeline.report import gallery
from pipeline.views.recipe import Recipe

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Offline distillation: report</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.35rem .8rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}img{max-width:100%}.note{color:#555}</style>
<h1>Offline distillation</h1>
<p>{{ samples }} training images in {{ classes }} classes; the teacher {{ teacher.name }} is right on
<b>{{ "%.2f"|format(teacher.top1) }} %</b> of the {{ val_samples }} validation images. Top-1 in percent.</p>
<table><tr><th>student</th><th>distillation</th><th>top-1</th><th>class head</th><th>distillation head</th><th>fused</th>
<th>average of weights</th><th>agrees with teacher</th><th>live</th></tr>
{% for name, s in students.items() %}<tr><td>{{ name }}</td><td>{{ s.distillation }}</td><td><b>{{ s.top1|pct }}</b></td>
<td>{{ s.class|pct }}</td><td>{{ s.distillation_head|pct }}</td><td>{{ s.fused|pct }}</td><td>{{ s.ema|pct }}</td>
<td>{{ s.agreement|pct }}</td><td>{{ "%.2f"|format(s.live_fraction) }}</td></tr>
{% endfor %}</table>
<p class="note">top-1 is the fused classifier's (sum of both heads' softmax) where there is a distillation head, else the
class head's. The training configuration is one for all students; params.yaml says where models and supervision differ.</p>
<h2>Curves</h2><img alt="training curves" src="data:image/png;base64,{{ curves }}">
<h2>Views as the teacher saw them</h2><p class="note">Above: the label, and the partner with the sample's own share;
below: the teacher's answer.</p><img alt="grid of views" src="data:image/png;base64,{{ views }}">
<h2>Seconds per stage</h2><table><tr><th>stage</th><th>seconds</th></tr>
{% for name, seconds in seconds.items() %}<tr><td>{{ name }}</td><td>{{ "%.1f"|format(seconds) }}</td></tr>{% endfor %}
</table><p class="note">Of the last run on this machine; a stage that DVC took from its cache keeps its old time.</p></html>
"""


def write(work: Path, cache: str, recipe: Recipe, summary: Mapping[str, Any], out: Path) -> None:
    """``index.html`` and ``summary.json`` in ``out``. There need be no cache of the training views."""
    train, val = Shards.open(work / "shards" / "train"), Shards.open(work / "shards" / "val")
    there = (work / "caches" / cache).exists()
    opened = open_cache(work / "caches" / cache) if there else None
    grid = gallery.cells(train, recipe, opened, block=0, samples=6, first_view=0, views=6)
    environment = Environment(autoescape=True)
    environment.filters["pct"] = lambda value: "" if value is None else f"{value:.2f}"
    page = environment.from_string(PAGE).render(
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
    for name in names:
        with (students / name / "log.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        epochs = np.array([float(row["epoch"]) for row in rows])
        left.plot(epochs, [float(row["task"]) for row in rows], label=name)
        scored = [row["val_top1"] != "" for row in rows]
        right.plot(epochs[scored], [100 * float(row["val_top1"]) for row in rows if row["val_top1"]], label=name)
    left.set(xlabel="epoch", ylabel="cross-entropy of the class head", title="Training loss (label term)")
    right.set(xlabel="epoch", ylabel="%", title="Validation top-1")
    right.legend()
    return picture


def _png(picture: Figure) -> str:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
