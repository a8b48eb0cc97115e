"""A trained student on disk, in the form that timm loads."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base import difference, files, timm_models, weights
from pipeline.base.sums import require_unchanged
from pipeline.runtime.config import validate
from pipeline.runtime.errors import IdentityError, IntegrityError, UsageError, first_line
from pipeline.student.config import StudentConfig
from pipeline.student.model import Student
from pipeline.views.recipe import Recipe, evaluation, in_timms_words

BESIDE = ("ema", "last")  # where a student keeps the weights that are not its result: their average, or the last ones
_WRITE = "write it with: python -m stages.train --student NAME"


def read_log(directory: Path) -> list[dict[str, str]]:
    """The rows of a student's ``log.csv``, one per epoch. Raises UsageError (there is none) or IntegrityError."""
    path = directory / "log.csv"
    require_unchanged(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            float(row["epoch"]), float(row["task"]), int(row["step"]), float(row["live_fraction"])
            float(row["val_top1"] or 0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: {error.strerror}; {_WRITE}") from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise IntegrityError(f"{path}: not the log of a training ({first_line(error)}); {_WRITE}") from None
    return rows


def live_fraction(log: Sequence[Mapping[str, Any]]) -> float:
    """Share of the training samples that the live teacher labelled; the last epoch may be a short one."""
    steps = [0, *(int(row["step"]) for row in log)]
    live = [float(row["live_fraction"]) * (step - before) for row, before, step in zip(log, steps, steps[1:])]
    return sum(live) / steps[-1] if log else 0.0


def export(
    student: Student, config: StudentConfig, class_names: Sequence[str], recipe: Recipe, directory: Path
) -> None:
    """Writes ``model.safetensors`` and ``config.json``, which ``timm.create_model("local-dir:DIRECTORY",
    pretrained=True)`` loads, with the recipe's size, normalisation and evaluation crop.

    timm's own forward in eval mode gives the mean of the two heads' logits. Each file is written durably and
    config.json last, without which timm loads nothing. Raises UsageError if the class names are not C.
    """
    model = student.model
    if len(class_names) != model.num_classes:
        raise UsageError(f"export: the student has {model.num_classes} classes, found {len(class_names)} class names")
    state = model.state_dict()
    weights.write_state(directory / "model.safetensors", state)
    views = {
        **in_timms_words(recipe),
        **{name: model.pretrained_cfg.get(name) for name in ("fixed_input_size", "first_conv", "classifier")},
    }
    arch_args = timm_models.sized(config.arch, config.arch_args, recipe.size)
    described = timm_models.description(model, config.arch, arch_args, class_names, weights.state_hash(state), views)
    files.write_durably(directory / "config.json", files.canonical_json(described))


def _description(directory: Path) -> dict[str, Any]:
    """``config.json`` of an exported student. Raises UsageError (there is none) or IntegrityError."""
    path = directory / "config.json"
    require_unchanged(path)
    try:
        found = files.parse_json(files.read_small(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: {error.strerror}; {_WRITE}") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: damaged ({error}); {_WRITE}") from None
    if not isinstance(found, dict) or not isinstance(found.get("pretrained_cfg", {}), dict):
        raise IntegrityError(f"{path}: not a student's description; {_WRITE}")
    return found


def recipe_of(directory: Path) -> Recipe:
    """The evaluation views that an exported student is to see. Raises UsageError or IntegrityError."""
    known = _description(directory).get("pretrained_cfg", {})
    try:
        chosen = {
            "size": known["input_size"][1],
            "crop_fraction": known["crop_pct"],
            **{name: known[name] for name in ("interpolation", "mean", "std")},
        }
        plain = validate(Recipe, {"seed": 0, "crop": "center", "policy": "", **chosen}, "pretrained_cfg")
    except (KeyError, TypeError, IndexError, UsageError) as error:
        raise IntegrityError(
            f"{directory / 'config.json'}: does not say which views the student sees ({error}); {_WRITE}"
        ) from None
    return evaluation(plain)


def label_names(directory: Path) -> tuple[str, ...]:
    """The classes of an exported student, in label order. Raises UsageError or IntegrityError."""
    names = _description(directory).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise IntegrityError(f"{directory / 'config.json'}: label_names is no list of classes; train the student again")
    return tuple(names)


def require_trained_for(directory: Path, classes: Sequence[str], recipe: Recipe) -> None:
    """Raises IdentityError (exit 4) naming each field in which an exported student was trained for other classes or
    other evaluation views than these; of a model that says nothing about a field, any value is taken."""
    description = _description(directory)
    known = description.get("pretrained_cfg", {}) | {"label_names": description.get("label_names")}
    expected = {"label_names": list(classes)} | in_timms_words(recipe)
    found = {name: value if known.get(name) is None else known[name] for name, value in expected.items()}
    apart = difference.differences(expected, found)
    if apart:
        raise IdentityError(
            f"{directory}: trained for other classes or views:\n{difference.describe(apart)}\n"
            f"evaluate it with the shards and the params.yaml that it was trained with"
        )


def load_student(directory: Path) -> Student:
    """The exported student, built by timm and checked, in eval mode on the CPU. Raises UsageError or IntegrityError."""
    if (directory / "config.json").is_file():
        _description(directory)  # refused here if damaged, before timm trips over it
        require_unchanged(directory / "model.safetensors")
    student = Student(timm_models.from_directory(directory))
    names, expected = label_names(directory), _description(directory).get("weights_hash")
    if len(names) != student.model.num_classes:
        raise IntegrityError(
            f"{directory / 'config.json'}: {len(names)} label_names for {student.model.num_classes} outputs; {_WRITE}"
        )
    found = weights.state_hash(student.model.state_dict())
    if found != expected:
        raise IntegrityError(
            f"{directory / 'model.safetensors'}: expected weights {expected} by config.json, found {found}; {_WRITE}"
        )
    return student.eval()
