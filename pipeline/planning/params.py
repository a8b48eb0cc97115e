"""Composing ``params.yaml`` from the small files of ``configs/``. Runs nothing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.base.files import sha256_file, whole_directory, write_durably
from pipeline.base.weights_name import is_hub
from pipeline.cache.layout import CacheConfig
from pipeline.data.sources import DataConfig, expected_classes
from pipeline.runtime.config import outline, read_yaml, validate
from pipeline.runtime.errors import UsageError
from pipeline.student.config import StudentConfig, waits_for
from pipeline.student.model import create as create_student
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import check_weights
from pipeline.teacher.model import create as create_teacher
from pipeline.training.config import FitConfig, TrainConfig
from pipeline.training.schedule import check_coverage, check_period, check_repeats, period
from pipeline.views.recipe import Recipe

GROUPS = ("data", "views", "teacher", "student", "train")
SECTIONS = {"data", "views", "teacher", "fit", "cache", "train", "students"}


def compose(configs: Path, choices: list[str]) -> dict[str, Any]:
    """The whole of ``params.yaml`` from choices like ``data=imagenet``, ``student=deit_tiny,deit_small`` and overrides
    like ``train.epochs=100`` or ``students.deit_tiny.alpha=0.3`` (values in YAML). What is not chosen is what the data
    set's file names under ``defaults``. Raises UsageError for an unknown choice, key or value."""
    pairs = [_split(choice) for choice in choices]
    chosen = {name: value for name, value in pairs if name in GROUPS}
    data = chosen.get("data", "digits")
    params = _read(configs, "data", data)
    picked = params.pop("defaults", {}) | chosen
    for group in GROUPS[1:]:
        if group not in picked:
            raise UsageError(
                f"{configs}/data/{data}.yaml: defaults.{group} is missing; add it, or choose one: {group}=..."
            )
    for group in ("views", "teacher", "train"):
        params |= _read(configs, group, picked[group])
    names = chosen["student"].split(",") if "student" in chosen else picked["student"]
    params["students"] = {name: _read(configs, "student", name) for name in names}
    for name, value in pairs:
        if name not in GROUPS:
            _override(params, name, value)
    for student, entry in params["students"].items():
        if not isinstance(entry, dict):
            raise UsageError(f"students.{student}: expected a section, found {entry!r}")
        found = waits_for(str(entry.get("supervise")), params["cache"].get("name"), params["teacher"].get("name"))
        entry.setdefault("waits_for", found.model_dump())
    check(params)
    return params


def check(params: dict[str, Any]) -> None:
    """Raises UsageError naming the first section or key that is wrong, missing or unknown, or does not go with another.
    Models are built on the device meta, without their numbers, so what timm refuses shows here and not in a stage."""
    extra, missing = set(params) - SECTIONS, SECTIONS - set(params)
    if extra or missing:
        raise UsageError(f"sections: unknown {sorted(extra) or 'none'}, missing {sorted(missing) or 'none'}")
    validate(DataConfig, params["data"], "data")
    validate(FitConfig, params["fit"], "fit")
    recipe = validate(Recipe, params["views"], "views")
    teacher = validate(TeacherConfig, params["teacher"], "teacher")
    cache = validate(CacheConfig, params["cache"], "cache")
    train = validate(TrainConfig, params["train"], "train")
    with torch.device("meta"):
        create_teacher(teacher, 2, pretrained=False)
    if not isinstance(params["students"], dict) or not params["students"]:
        raise UsageError(f"students: expected a mapping with at least one entry, found {params['students']!r}")
    for name, entry in params["students"].items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", str(name)):
            raise UsageError(f"students.{name}: a name of letters, digits, _ and -, since it names a directory")
        student = validate(StudentConfig, entry, f"students.{name}")
        try:
            _check_student(student, recipe, cache, train)
        except UsageError as error:
            raise UsageError(f"students.{name}: {error}") from None


def _check_student(student: StudentConfig, recipe: Recipe, cache: CacheConfig, train: TrainConfig) -> None:
    if student.distillation == "soft" and cache.codec == "none":
        raise UsageError(
            "soft distillation needs logits, and cache.codec is none (hard labels only); set cache.codec=u8 (1 byte per "
            "class and view) or f16 (2 bytes)"
        )
    if student.supervise in ("cached", "auto"):
        check_repeats(train.repeats, cache.group)
    views = period(student.supervise, train.period, cache.views, 1, train.repeats)
    check_period(views, train.repeats)
    if student.supervise == "cached":
        check_coverage(views, cache.views)
    with torch.device("meta"):
        create_student(student, 2, recipe.size)


def check_files(params: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Raises UsageError for local weights that are not there, and for a teacher whose weights are seen to be for another
    number of classes: a stage would find them only after hours of others."""
    for key, source in named_weights(params).items():
        if source is not None and not is_hub(source) and not Path(source).is_file():
            raise UsageError(f"{key}: no such file {source}; correct it, or name a hub model")
    classes = expected_classes(validate(DataConfig, params["data"], "data"), environment)
    if classes is not None:
        check_weights(validate(TeacherConfig, params["teacher"], "teacher"), classes)


def named_weights(params: dict[str, Any]) -> dict[str, str | None]:
    """The weights that a configuration names, by their key."""
    initial = {f"students.{name}.initial": entry.get("initial") for name, entry in params["students"].items()}
    return {"teacher.weights": params["teacher"].get("weights")} | initial


def write_weights(params: dict[str, Any], out: Path) -> None:
    """A file for each key of ``named_weights`` in the directory ``out``: sha256 of a local file, else the name. Stages
    depend on these, so that DVC sees a file of weights that was replaced in place."""
    with whole_directory(out, ("teacher.weights",)) as fresh:
        for key, source in named_weights(params).items():
            seen = "none" if source is None else source if is_hub(source) else sha256_file(Path(source))
            write_durably(fresh / key, f"{seen}\n".encode())


def write(params: dict[str, Any], path: Path, choices: list[str]) -> None:
    command = " ".join(["python -m stages.configure", *choices])
    about = f"# Written by: {command}\n# Edit it here or write it again; every key is described in configs/."
    path.write_text(f"{about}\n{outline(params)}\n")


def _split(choice: str) -> tuple[str, str]:
    name, equals, value = choice.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"{choice!r}: expected name=value, for example data=imagenet or train.epochs=100")
    if name not in GROUPS and "." not in name:
        raise UsageError(
            f"{name}: no such choice; there are {', '.join(GROUPS)}, and overrides such as train.epochs=100"
        )
    return name, value


def _read(configs: Path, group: str, name: str) -> dict[str, Any]:
    path = configs / group / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in (configs / group).glob("*.yaml")))
        raise UsageError(f"{group}={name}: no such file {path}; there are {there}")
    return read_yaml(path)


def _override(params: dict[str, Any], name: str, value: str) -> None:
    *path, last = name.split(".")
    place: Any = params
    for part in path:
        if not isinstance(place, dict) or part not in place:
            raise UsageError(f"{name}: there is no {part!r} in the configuration; spell it as in params.yaml")
        place = place[part]
    if not isinstance(place, dict):
        raise UsageError(f"{name}: {'.'.join(path)} is no section but the value {place!r}")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"{name}={value}: not valid YAML: {' '.join(str(error).split())}") from None
