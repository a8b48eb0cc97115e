"""The report of a study: index.html, and the same numbers as summary.json and summary.md.

``summary`` has the scores. Here is what is shown besides: what was run, caches, curves, views, images, settings.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.files import require_own, whole_directory, write_durably
from pipeline.cache.reader import find_store
from pipeline.cache.verify import verify
from pipeline.data.shards import Shards
from pipeline.evaluation import disagreement
from pipeline.evaluation.inside import attention_of_class_token, has_class_token
from pipeline.report import pictures, summary
from pipeline.report.figures import Series
from pipeline.report.inspect_cache import inspect_cache
from pipeline.report.page import render
from pipeline.report.study import Study
from pipeline.report.table import markdown
from pipeline.runtime.libraries import installed
from pipeline.runtime.work import Work
from pipeline.student.export import load_student, read_log
from pipeline.views.validation import views_of_rows

MARKS = ("summary.json",)  # by which a report's directory is known
_WHOLE = 30  # classes: up to so many the confusion table is shown whole
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "zarr", "dvc", "scikit-learn")
# What Touvron et al. 2021 report of ImageNet-1k: in section 4 the mean cosine of the two tokens, in Table 4 the shares of the
# validation images on which a student and its convnet teacher differ. The top-1 of each row is a student's ``reference``.
_PAPER = {
    "tokens": {"input": 0.06, "last": 0.93, "two_class_tokens": 0.999},
    "disagreement": {"undistilled": 0.133, "class": 0.112, "distillation": 0.100},
}
_VERIFIED = 4_000_000_000  # bytes: larger caches are not read whole for a report
_CURVES = {
    "Loss": "loss",
    "Loss on the label": "task",
    "Loss on the teacher": "distill",
    "Top-1 on validation": "val_top1",
    "Learning rate": "lr",
}
_MORE_CURVES = {  # of trainings with score: all
    f"{title} on {where}": f"{split}_{key}"
    for split, where in (("val", "validation"), ("train", "training images"))
    for title, key in (("Top-1", "top1"), ("Top-5", "top5"), ("F1", "f1"), ("AUC", "auc"))
    if (split, key) != ("val", "top1")
}


def write_report(work: Work, study: Study, settings: Path, out: Path) -> dict[str, Any]:
    """Writes the report of what lies below ``work`` to the directory ``out``; its numbers. ``settings``: params.yaml.

    Raises UsageError for what was not run, IntegrityError for damage, IdentityError for answers of another student.
    """
    require_own(out, MARKS)
    teachers, students = summary.read_all(work, study)
    scored = summary.summarise(work, study, teachers, students)
    found = facts(work, study, settings) | scored
    shown = views(work, study)
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
        curves=curves(work, study, found["seconds"]),
        **shown,
        pictures=images(work, study, found["worst"], best),
        settings=settings.read_text(encoding="utf-8"),
        recipe=study.recipe_shown()[0],
        shown_cache=study.recipe_shown()[1],
        hottest=max([1e-9, *(value for row in found["disagreement"]["matrix"] for value in row)]),
        pixelated=all(recipe.size <= pictures.SMALL for recipe in study.recipes.values()),
    )
    with whole_directory(out, MARKS) as fresh:
        write_durably(fresh / "summary.json", json.dumps(found, indent=1).encode() + b"\n")
        write_durably(fresh / "summary.md", markdown(found).encode())
        write_durably(fresh / "index.html", page.encode())
    return found


def facts(work: Work, study: Study, settings: Path) -> dict[str, Any]:
    """What summary.json holds besides scores: what was run, caches, versions, commit, the papers' figures."""
    train, val = (Shards.open(work.split(split)) for split in ("train", "val"))
    return {
        "run": {
            "source": study.data.source,
            "classes": len(train.classes),
            "train": train.samples,
            "val": val.samples,
            "students": len(study.students),
            "quarantined": {
                of.manifest.split: [entry.model_dump() for entry in of.manifest.quarantined] for of in (train, val)
            },
        },
        "interval": 95,
        "caches": {name: cache_card(work.cache(name), train) for name in study.caches},
        "paper": _PAPER,
        "versions": {"python": platform.python_version()} | installed(_LIBRARIES),
        "commit": code_commit(),
        "command": command_of(settings),
    }


def cache_card(path: Path, train: Shards) -> dict[str, Any]:
    """Identity, coverage, bytes and statistics of a cache; ``verified``: what a check of every file found, left out where
    the cache is too large for it. Raises IntegrityError for damage among the blocks that are read."""
    found = inspect_cache(path, train, most_blocks=200)
    found["answers"].pop("histogram")
    identity = find_store(path, None).identity
    found |= {
        "canary": identity["canary"],
        "weights": identity["teacher"]["weights"],
        "total": sum(found["bytes"].values()),
    }
    if found["total"] <= _VERIFIED:
        checked = verify(path)
        found["verified"] = {"parts": checked.parts, "whole": checked.whole, "damaged": len(checked.damaged)}
    return found


def code_commit() -> str | None:
    """The commit of the code, with "+" where files differ from it; None outside a repository or without git."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() or None


def command_of(settings: Path) -> str:
    """The command that composed params.yaml, from its first line; where there is none, ``stages.configure``."""
    first = settings.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# Written by: ") if first.startswith("# Written by: ") else "python -m stages.configure"


def curves(work: Work, study: Study, seconds: Mapping[str, Any]) -> dict[str, Series]:
    """The columns of ``log.csv`` and the share of time spent waiting for data, where the training noted it, as points
    (epoch, value) by title and student."""
    logs = {name: read_log(work.student(name)) for name in study.students}
    columns = {column for rows in logs.values() for column in rows[0]}
    more = {title: key for title, key in _MORE_CURVES.items() if key in columns}
    found: dict[str, Series] = {
        title: {
            name: [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key) not in ("", None)]
            if key != "distill" or study.students[name].distillation != "none"
            else []
            for name, rows in logs.items()
        }
        for title, key in {**_CURVES, **more}.items()
    }
    found["Waiting for data, share"] = {
        name: [
            (float(row["epoch"]), float(row["waiting"])) for row in seconds.get(f"train:{name}", {}).get("speed", ())
        ]
        for name in study.students
    }
    return found


def views(work: Work, study: Study) -> dict[str, Any]:
    """Pictures of the training images: ``views`` as the teacher saw them, and ``augmented``, each augmentation by itself."""
    name, cache = study.recipe_shown()
    train, recipe = Shards.open(work.split("train")), study.recipes[name]
    rows = pictures.views(train, recipe, work.cache(cache) if cache is not None else None, 0, 3, range(6))
    return {"views": [view for row in rows for view in row], "augmented": pictures.augmentations(train, recipe)}


def images(work: Work, study: Study, worst: list[dict[str, Any]], best: str) -> dict[str, list[str]]:
    """Pictures of the ``worst`` samples, and of the first ones with where the class token of student ``best`` looks, if it
    has one."""
    val, recipe = Shards.open(work.split("val")), study.recipes[study.students[best].recipe]
    shown = views_of_rows(val, [entry["row"] for entry in worst], recipe)
    first = views_of_rows(val, range(min(6, val.samples)), recipe)
    model = load_student(work.student(best)).model
    maps: Any = attention_of_class_token(model, first).numpy() if has_class_token(model) else []
    pixels = [pictures.to_pixels(image, recipe) for image in first]
    return {
        "worst": [pictures.data_uri(pictures.to_pixels(image, recipe)) for image in shown],
        "first": [pictures.data_uri(image) for image in pixels],
        "attention": [pictures.data_uri(pictures.looked_at(image, of)) for image, of in zip(pixels, maps)],
    }
