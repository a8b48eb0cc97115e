"""The report of a study: index.html, and the same numbers as summary.json and summary.md."""

import json
from pathlib import Path
from typing import Any

from pipeline.base.files import require_own, whole_directory, write_durably
from pipeline.evaluation import disagreement
from pipeline.report import content, summary
from pipeline.report.page import render
from pipeline.report.pictures import SMALL
from pipeline.report.study import Study
from pipeline.report.table import markdown
from pipeline.runtime.work import Work

_WHOLE = 30  # classes: up to so many the confusion table is shown whole
MARKS = ("summary.json",)  # by which a report's directory is known


def write_report(work: Work, study: Study, settings: Path, out: Path) -> dict[str, Any]:
    """Writes the report of what lies below ``work`` to the directory ``out``; its numbers. ``settings``: params.yaml.

    Raises UsageError for what was not run, IntegrityError for damage, IdentityError for answers of another student.
    """
    require_own(out, MARKS)
    teachers, students = summary.read_all(work, study)
    scored = summary.summarise(work, study, teachers, students)
    found = content.facts(work, study, settings) | scored
    shown = content.views(work, study)
    found["views"] = [{"title": view["title"], "answer": view["answer"]} for view in shown["views"]]
    best = max(found["students"], key=lambda name: found["students"][name]["top1"])
    found["best"] = best
    of, few = students[best], len(found["per_class"][best]) <= _WHOLE
    found["classes"] = list(of.classes) if few else None
    found["confusion"] = disagreement.confusion(of, of.best).tolist() if few else None
    found = json.loads(json.dumps(found))  # as it will be read: tuples are lists
    page = render(
        work.root,
        found,
        curves=content.curves(work, study, found["seconds"]),
        **shown,
        pictures=content.images(work, study, found["worst"], best),
        settings=settings.read_text(encoding="utf-8"),
        recipe=study.recipe_shown()[0],
        shown_cache=study.recipe_shown()[1],
        hottest=max([1e-9, *(value for row in found["disagreement"]["matrix"] for value in row)]),
        pixelated=all(recipe.size <= SMALL for recipe in study.recipes.values()),
    )
    with whole_directory(out, MARKS) as fresh:
        write_durably(fresh / "summary.json", json.dumps(found, indent=1).encode() + b"\n")
        write_durably(fresh / "summary.md", markdown(found).encode())
        write_durably(fresh / "index.html", page.encode())
    return found
