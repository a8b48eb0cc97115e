"""Composing ``params.yaml`` from the small files of ``configs/`` (layer L3). Runs nothing."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Config, read_yaml, validate
from pipeline.fit import FitConfig
from pipeline.identity import CacheConfig
from pipeline.models import is_hub
from pipeline.runtime import UsageError
from pipeline.sources import DataConfig
from pipeline.student import StudentConfig, waits_for
from pipeline.teacher import TeacherConfig, create
from pipeline.train import TrainConfig
from pipeline.views import Recipe

GROUPS = ("data", "views", "teacher", "student", "train")
SECTIONS: dict[str, type[Config]] = {
    "data": DataConfig,
    "views": Recipe,
    "teacher": TeacherConfig,
    "fit": FitConfig,
    "cache": CacheConfig,
    "train": TrainConfig,
}


def compose(configs: Path, choices: list[str]) -> dict[str, Any]:
    """The whole of ``params.yaml`` from choices like ``data=imagenet``, ``student=deit_tiny,deit_small`` and overrides
    like ``train.epochs=100`` or ``students.deit_tiny.alpha=0.3`` (values in YAML). What is not chosen is what the data
    set's file names under ``defaults``. Raises UsageError for an unknown choice, key or value."""
    pairs = [_split(choice) for choice in choices]
    chosen = {name: value for name, value in pairs if name in GROUPS}
    data = _read(configs, "data", chosen.get("data", "digits"))
    defaults = data.pop("defaults", {})
    params = data
    for group in ("views", "teacher", "student", "train"):
        if group not in defaults and group not in chosen:
            raise UsageError(
                f"{configs}/data/{chosen.get('data', 'digits')}.yaml: defaults.{group} is missing; add it, or "
                f"choose one: {group}=..."
            )
    for group in ("views", "teacher", "train"):
        params |= _read(configs, group, chosen.get(group) or defaults[group])
    names = chosen["student"].split(",") if "student" in chosen else defaults["student"]
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
    """Raises UsageError naming the first section or key that is wrong, missing or unknown."""
    extra = set(params) - set(SECTIONS) - {"students"}
    missing = (set(SECTIONS) | {"students"}) - set(params)
    if extra or missing:
        raise UsageError(f"sections: unknown {sorted(extra) or 'none'}, missing {sorted(missing) or 'none'}")
    found = {name: validate(model, params[name], name) for name, model in SECTIONS.items()}
    cache, train = found["cache"], found["train"]
    assert isinstance(cache, CacheConfig) and isinstance(train, TrainConfig)
    if train.batch % (2 * train.lanes):
        raise UsageError(
            f"train.batch: expected a multiple of 2 x train.lanes = {2 * train.lanes}, found {train.batch}"
        )
    for name, entry in params["students"].items():
        student = validate(StudentConfig, entry, f"students.{name}")
        if student.distillation == "soft" and cache.codec == "none":
            raise UsageError(
                f"students.{name}: soft distillation needs logits, and cache.codec is none (hard labels only); set "
                f"cache.codec=u8 (1 byte per class and view) or f16 (2 bytes)"
            )
        if student.supervise in ("cached", "auto") and cache.group % train.repeats:
            raise UsageError(
                f"train.repeats: r = {train.repeats} does not divide cache.group G = {cache.group}, so a visit would lie "
                f"in two parts of the cache; choose a divisor of G"
            )


def check_files(params: dict[str, Any]) -> None:
    """Raises UsageError for local weights that are not there, and for a local teacher that does not load or has another
    number of classes than ``data.classes``: a stage would find them only after hours of others."""
    named = {f"students.{name}.initial": entry.get("initial") for name, entry in params["students"].items()}
    for key, source in ({"teacher.weights": params["teacher"]["weights"]} | named).items():
        if source is not None and not is_hub(source) and not Path(source).is_file():
            raise UsageError(f"{key}: no such file {source}; correct it, or name a hub model")
    teacher, classes = validate(TeacherConfig, params["teacher"], "teacher"), params["data"].get("classes")
    if classes and teacher.weights is not None and not is_hub(teacher.weights):
        create(teacher, classes, pretrained=True)


def write(params: dict[str, Any], path: Path, choices: list[str]) -> None:
    command = " ".join(["python -m stages.configure", *choices])
    text = yaml.safe_dump(params, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    path.write_text(
        f"# Written by: {command}\n# Edit it here or write it again; every key is described in configs/.\n{text}"
    )


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
