"""The studies at full size hold the figures and the rates of their sources, typed here a second time."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.planning.advice import advice
from pipeline.planning.check import check
from pipeline.planning.params import compose
from pipeline.planning.pieces import Pieces, parse_pieces
from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import UsageError

CONFIGS = Path(ROOT) / "configs"
# Touvron et al. 2021. Table 8: at 224, fine-tuned at 384
TABLE_8 = {
    "baseline": (81.8, 83.1),
    "sgd": (74.5, 77.3),
    "finetuned_with_sgd": (None, 83.1),
    "no_randaugment": (79.6, 80.4),
    "autoaugment": (81.2, 81.9),
    "no_mixup": (78.7, 79.8),
    "no_cutmix": (80.0, 80.6),
    "no_mixing": (75.8, 76.7),
    "no_erasing": (4.3, 0.1),
    "no_stochastic_depth": (3.4, 0.1),
    "no_repeated_views": (76.5, 77.4),
    "dropout": (81.3, 83.1),
}
# Table 3: Ti, S, B at 224, B at 384; a row of the table stands for the form with the label and for the one without
TABLE_3 = {
    "plain": (72.2, 79.8, 81.8, 83.1),
    "soft": (72.2, 79.8, 81.8, 83.2),
    "hard": (74.3, 80.9, 83.0, 84.0),
    "token": (74.5, 81.2, 83.4, 84.5),
}
SIZES = ("tiny", "small", "base")
TABLE_2 = {"deit_b": (81.9, 83.1), "040": (82.7, 83.6), "080": (82.7, 83.8), "120": (83.1, 84.1), "160": (83.1, 84.2)}
REFERENCES: dict[str, dict[str, float | None]] = {
    "ablation": {name + at: row[i] for name, row in TABLE_8.items() for i, at in enumerate(("", "_at_384")) if row[i]},
    "distillation": {
        f"{size}_{form}": TABLE_3[form.removesuffix("_only")][column]
        for column, size in enumerate(SIZES)
        for form in ("plain", "soft", "soft_only", "hard", "hard_only", "token")
    },
    "finetune_384": {
        "tiny": 72.2,
        "tiny_token": 74.5,
        "small": 79.8,
        "small_token": 81.2,
        **{f"base{form}{at}": TABLE_3[form.strip("_") or "plain"][i] for i, at in ((2, ""), (3, "_at_384"))
           for form in ("", "_soft", "_hard", "_token")},
    },
    "sizes": {
        **dict(zip(SIZES, TABLE_3["plain"])),
        **dict(zip([f"{size}_distilled" for size in SIZES], TABLE_3["token"])),
        **dict(zip([f"{size}_distilled_1000" for size in SIZES], (76.6, 82.6, 84.2))),
        "base_distilled_1000_at_384": 85.2,
    },
    "teachers": {
        "base_plain": 81.8,
        "base_plain_at_384": 83.1,
        **{f"from_{name}{at}": row[i] for name, row in TABLE_2.items() for i, at in enumerate(("", "_at_384"))},
    },
    "transfer": {"fine_tuned": 99.1, "from_scratch": 97.5},
    "cifar10": {"vit": 63.9, "deit": 63.9, "deit_augmented": 70.7},
}  # fmt: skip
# epochs, batch, peak learning rate, weight decay, repeats, views before one comes again
DEIT = (300, 1024, 1e-3, 0.05, 3, 300)
LONG = (1000, 1024, 1e-3, 0.05, 3, 300)
AT_384 = (25, 512, 5e-6, 1e-8, 3, 24)
RATES = {
    ("distillation", "base_token"): DEIT,
    ("ablation", "sgd"): DEIT,
    ("ablation", "no_repeated_views"): (*DEIT[:4], 1, 300),
    ("ablation", "no_repeated_views_at_384"): (*AT_384[:4], 1, 24),
    ("ablation", "baseline_at_384"): AT_384,
    ("finetune_384", "base_token_at_384"): AT_384,
    ("teachers", "from_160_at_384"): AT_384,
    ("sizes", "base_distilled_1000"): LONG,
    ("sizes", "base_1000"): LONG,
    ("sizes", "vit_b"): (300, 4096, 3e-3, 0.3, 1, 300),
    ("transfer", "fine_tuned"): (1000, 768, 1e-2, 1e-4, 3, None),
    ("transfer", "from_scratch"): (7200, 1024, 1e-3, 0.05, 3, None),
    ("cifar10", "deit_augmented"): (20, 64, 1e-3, 0.0, 1, 20),
}


@pytest.fixture(scope="module")
def studies() -> dict[str, Pieces]:
    return {study: parse_pieces(compose(CONFIGS, [f"study={study}"])) for study in REFERENCES}


@pytest.mark.parametrize("study", REFERENCES)
def test_a_row_stands_beside_the_figure_that_its_source_has_for_it(studies: dict[str, Pieces], study: str) -> None:
    students = studies[study].students
    found = {name: student.reference for name, student in students.items() if student.reference is not None}
    assert found == REFERENCES[study]


def test_a_row_trains_at_the_rates_of_its_source(studies: dict[str, Pieces]) -> None:
    for (study, name), expected in RATES.items():
        training = studies[study].trainings[studies[study].students[name].training]
        optimizer = training.optimizer
        peak = optimizer.scaled_lr(training.batch)
        found = (training.epochs, training.batch, peak, optimizer.weight_decay, training.repeats, training.period)
        assert found == pytest.approx(expected), (study, name)


def test_an_ablation_takes_one_thing_away(studies: dict[str, Pieces]) -> None:
    """From the recipe or the training of the baseline, at 224 and at 384 px."""
    pieces = studies["ablation"]
    changes = {
        "no_randaugment": {"policy", "color_jitter"},
        "autoaugment": {"policy"},
        "no_mixup": {"mix"},
        "no_cutmix": {"mix"},
        "no_mixing": {"mix"},
        "no_erasing": {"erase"},
        "no_stochastic_depth": set(),
        "no_repeated_views": {"shared_pairing", "repeats"},
        "dropout": set(),
        "sgd": {"optimizer"},
    }
    for name, expected in changes.items():
        for at in ("", "_at_384"):
            first, second = pieces.students["baseline" + at], pieces.students[name + at]
            changed = set()
            for section, key in ((pieces.recipes, "recipe"), (pieces.trainings, "training")):
                a, b = (section[getattr(student, key)].model_dump() for student in (first, second))
                changed |= {field for field in a if a[field] != b[field]}
            assert changed == (expected - {"optimizer"} if at else expected), name + at


@pytest.mark.parametrize("path", sorted((CONFIGS / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_begins_with_its_commands_its_cost_and_its_last_result(path: Path) -> None:
    evidence = " ".join((ROOT / "docs" / "EVIDENCE.md").read_text().split())
    commands, full, demo, result = re.fullmatch(
        r"(.*)# Cost, full(.*)# Cost, demo(.*)# Last result, demo(.*?)\n#\n.*", path.read_text(), re.S
    ).groups()  # type: ignore[union-attr] # no match is a failure as well
    command = f"# python -m stages.configure study={path.stem}"
    assert commands == f"{command} && dvc repro\n{command} scale=demo && dvc repro\n"
    pieces = {
        scale: parse_pieces(compose(CONFIGS, [f"study={path.stem}", f"scale={scale}"])) for scale in ("full", "demo")
    }
    assert f" {len(pieces['demo'].students)} trainings, " in demo
    minutes = re.findall(r"([\d.]+) minutes", demo)
    assert re.search(rf"\b{path.stem} {minutes[0]}\b", evidence)
    figures = re.findall(r"\d\d\.\d\d", result)
    assert figures and all(figure in evidence for figure in figures)
    said = [float(number) * {"M": 1e6, "G": 1e9}[unit] for number, unit in re.findall(r"([\d.]+) ([MG]) views", full)]
    of = pieces["full"]
    samples = of.data.expected.train if of.data and of.data.expected else 0
    steps = [
        (of.trainings[student.training].batch, of.trainings[student.training].epochs)
        for student in of.students.values()
    ]
    trained = sum(int(epochs * samples / batch) * batch for batch, epochs in steps)
    cached = sum(samples * cache.views for cache in of.caches.values())
    assert f"{len(of.students)} trainings" in full
    assert [trained, cached][: 1 + bool(cached)] == pytest.approx(said[-1 - bool(cached) :], rel=0.03)


@pytest.mark.parametrize("scale", ["full", "demo"])
@pytest.mark.parametrize("study", sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml")))
def test_every_study_composes_at_both_scales(study: str, scale: str) -> None:
    pieces = check(compose(CONFIGS, [f"study={study}", f"scale={scale}"]), {}, files=False)
    assert not advice(pieces)
    for name, student in pieces.students.items():  # fine-tuned from a student of the same kind, at another size
        if student.parent != "none":
            parent = pieces.students[student.parent]
            assert parent.token == student.token and (parent.recipe != student.recipe or study == "transfer"), name


def test_a_study_takes_overrides_and_another_data_set() -> None:
    choices = ["study=distillation", "scale=demo", "data=cifar10", "training.epochs=1", "students.tiny_soft.tau=2.0"]
    params = compose(CONFIGS, choices)
    assert params["data"]["source"] == "cifar10" and params["students"]["tiny_soft"]["tau"] == 2.0
    assert {entry["epochs"] for entry in params["trainings"].values()} == {1}
    for data, expected in {"cifar10": 99.1, "cifar100": 90.8, "folder": None}.items():
        found = compose(CONFIGS, ["study=transfer", f"data={data}"])["students"]["fine_tuned"]
        assert found["initial"] == "timm" and found.get("reference") == expected
        assert ("from_scratch" in compose(CONFIGS, ["study=transfer", f"data={data}"])["students"]) == (
            data == "cifar10"
        )
    with pytest.raises(UsageError, match=r"study=tables: no such file .*; there are ablation, cifar10, distillation"):
        compose(CONFIGS, ["study=tables"])


def test_a_name_that_a_study_would_pass_over_is_refused(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    text = (configs / "study" / "transfer.yaml").read_text()
    (configs / "study" / "transfer.yaml").write_text(text.replace("cifar100:", "cifar-100:") + "change: {demoo: {}}\n")
    with pytest.raises(UsageError, match="study=transfer: there is no data set cifar-100, no section change;"):
        compose(configs, ["study=transfer"])


@pytest.mark.parametrize("choice", ["student=hard", "recipe=digits", "test_set=real"])
def test_a_choice_that_a_study_would_pass_over_is_refused(choice: str) -> None:
    with pytest.raises(UsageError, match="a study brings its own pieces"):
        compose(CONFIGS, ["study=distillation", choice])
    with pytest.raises(UsageError, match="only a study has one"):
        compose(CONFIGS, ["scale=demo"])
