"""The page at its largest: 1,000 classes and 12 students, without a run of that size."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation import disagreement, scores
from pipeline.report import page, pictures, summary, table
from tests.support.answers import answered

STUDENTS = 12
EPOCHS = 300


def rendered(
    tmp_path: Path,
    names: list[str],
    classes: int,
    title: str = "a 0.4 mix b",
    reference: float | None = None,
    note: str | None = None,
) -> str:
    """The page of students of these names, all with the same answers: what counts here is how much there is to say."""
    teacher = answered(2000, classes, seed=99, heads=1)
    one = answered(2000, classes, seed=0)
    students = dict.fromkeys(names, one)
    heads = {head: scores.scores_of(one, head) for head in one.heads}
    chance = np.random.default_rng(0)
    found = {
        "run": {"source": "imagenet", "classes": classes, "train": 1281167, "val": 50000, "students": STUDENTS,
                "quarantined": {"train": [], "val": []}},
        "interval": 95, "caches": {}, "versions": {"python": "3.11"}, "commit": None, "command": "configure",
        "paper": {"tokens": {"input": 0.06, "last": 0.93, "two_class_tokens": 0.999},
                  "disagreement": {"class": 0.1, "distillation": 0.1, "undistilled": 0.1}},
        "teachers": {"teacher": scores.scores_of(teacher, "class")},
        "students": {}, "tokens": {}, "seconds": {}, "classes": None, "confusion": None, "best": names[-1],
        "disagreement": summary.disagreements({"teacher": teacher}, students), "pairs": summary.pairs(students),
        "worst": summary.worst({names[-1]: one}),
    }  # fmt: skip
    found["views"] = [{"title": title, "answer": "a 0.50, b 0.40, c 0.10"}] * 18
    for name in students:
        scored = {"sets": {"val": {"heads": heads}}, "parameters": 5_700_000, "gflops": 2.5, "live_fraction": 0.0}
        scored["tokens"] = {"parameters": 0.1, "layers": [i / 12 for i in range(13)], "heads": 0.5}
        (tmp_path / "eval" / name).mkdir(parents=True)
        (tmp_path / "eval" / name / "metrics.json").write_text(json.dumps(scored))
        found["tokens"][name] = scored["tokens"]
        found["students"][name] = {
            **scored, "distillation": "hard", "supervision": "cached", "teacher": "teacher", "best": "fused",
            "top1": heads["fused"]["top1"], "beside": None, "reference": reference, "note": note,
            "agreement": {"teacher": {"percent": 50.0, "divergence": 1.0}},
        }  # fmt: skip
    found["per_class"] = dict.fromkeys(students, disagreement.per_class(one, "fused"))
    found["calibration"] = dict.fromkeys(students, scores.calibration(one, "fused"))
    found["confused"] = dict.fromkeys(students, disagreement.confused(one, "fused", 12))
    curve = {name: [(float(e), float(chance.random())) for e in range(EPOCHS)] for name in students}
    noise = [pictures.data_uri(chance.integers(0, 256, (224, 224, 3), np.uint8)) for _ in range(4)]  # compresses badly
    shown = {
        "curves": {f"curve {i}": curve for i in range(6)},
        "views": [{"picture": noise[0], **view} for view in found["views"]],
        "augmented": [("op", noise[1])] * 22,
        "pictures": {"worst": [noise[2]] * 12, "first": [noise[3]] * 6, "attention": [noise[0]] * 6},
    }
    more = {"settings": "a: 1\n" * 300, "recipe": "deit_224", "shown_cache": None, "hottest": 1.0, "pixelated": False}
    return page.render(tmp_path, found, **shown, **more)


def test_a_page_of_1000_classes_and_12_students_stays_below_6_megabytes(tmp_path: Path) -> None:
    text = rendered(tmp_path, [f"student_{i:02d}" for i in range(STUDENTS)], 1000)
    assert 3_000_000 < len(text) <= 6_000_000
    assert text.count("<svg") == 6 + 4


EVIL = 'did <script>alert(1)</script> not | train, "3" times\u202e'


@pytest.mark.parametrize(
    ("reference", "note", "shown"),
    [
        (4.3, "did not train", ("4.3 (did not train)", "4.3 (did not train)")),
        (4.3, None, ("4.3", "4.3")),
        (None, "no figure", ("(no figure)", "– (no figure)")),
        (None, None, ("", "–")),
        (1.0, EVIL, (f"1.0 ({EVIL})", rf"1.0 ({EVIL[:-1]}\u202e)")),
    ],
)
def test_a_published_figure_and_its_note_stand_in_page_and_tables(
    tmp_path: Path, reference: float | None, note: str | None, shown: tuple[str, str]
) -> None:
    text = rendered(tmp_path, ["student"], 10, reference=reference, note=note)
    cells = [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td>(.*?)</td>", text)]
    assert shown[1] in cells and "<script>alert" not in text and "\u202e" not in text
    entry = {"distillation": "hard", "top1": 50.0, "interval": [40.0, 60.0], "teacher": None, "agreement": {}}
    entry |= {"reference": reference, "note": note}
    run = {"train": 1, "val": 1, "source": "digits", "classes": 10}
    found = {"teachers": {"t": entry}, "students": {"a": entry}, "run": run, "interval": 95}
    head, _, row = table.table(found).splitlines()
    assert ("paper" in head) == bool(reference or note) and row.endswith(shown[0])
    head, rule, *rows = table.markdown(found).splitlines()[:4]
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1 and "<script>" not in rows[1]
    assert shown[0] in html.unescape(rows[1])


def test_a_report_of_hostile_names_is_plain_text(tmp_path: Path) -> None:
    title = (
        "$<script>alert(1)</script>\u202e\x9b"  # of a view: names of classes; a student's name is letters and digits
    )
    text = rendered(tmp_path, ["student"], 10, title)
    assert "<script>alert" not in text and not set("\x1b\x9b\u202e") & set(text)
    page.write_views(tmp_path / "v.html", [[{"picture": "data:,", "title": title, "answer": "猫 $5"}]], "digits", 8)
    views = (tmp_path / "v.html").read_text(encoding="utf-8")
    assert "<script>alert" not in views and not set("\x1b\x9b\u202e") & set(views) and "猫 $5" in views
    assert all(r"$&lt;script&gt;alert(1)&lt;/script&gt;\u202e\x9b" in shown for shown in (text, views))
