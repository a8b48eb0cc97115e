"""Studies: several trainings that answer one question and share what they can, as one file of ``configs/study``.

A scale (``configs/scale``: full, demo) supplies the base pieces: data, recipe, teacher, cache, training, models. A study
lists changes to them. ``full:`` and ``demo:`` inside a piece apply at that scale only. ``with_data:`` of a student applies
with that data set only; where it is ``none``, the student is left out. ``changes:`` of a study change the scale itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.config import NONE, read_yaml
from pipeline.runtime.errors import UsageError

SCALES = ("full", "demo")
# The section of params.yaml that stands for each group of configs/: ``recipe=deit_224`` reads configs/recipe/deit_224.yaml.
SECTION = {
    "recipe": "recipes",
    "teacher": "teachers",
    "cache": "caches",
    "training": "trainings",
    "student": "students",
    "test_set": "test_sets",
}
_KEYS = {"data", "changes", *SECTION.values()}


def compose_study(configs: Path, name: str, scale: str, data: str | None = None) -> dict[str, Any]:
    """``params.yaml`` of the study ``name`` at a scale, before pieces that name no other piece are linked; ``data`` replaces
    the scale's data set. Raises UsageError for an unknown study or scale, and for a piece that names what is not there."""
    study, of = read_choice(configs, "study", name), read_choice(configs, "scale", scale)
    _require_known(study, configs, name)
    of = merge(of, study.get("changes", {}).get(scale, {}))
    data = data or str(study.get("data", {}).get(scale, of["data"]))
    source = read_choice(configs, "data", data)
    params: dict[str, Any] = {"data": source["data"]}
    for group, section in SECTION.items():
        pieces = study.get(section, {str(of[group]): {}} if group in of else {})
        params[section] = {
            key: _student(entry, of, scale, data)
            if group == "student"
            else _piece(configs, group, key, entry, of, scale)
            for key, entry in ({} if pieces == NONE else pieces).items()
            if scale in entry.get("scales", SCALES) and entry.get("with_data", {}).get(data) != NONE
        }
    return params


def _require_known(study: Mapping[str, Any], configs: Path, name: str) -> None:
    """Raises UsageError for sections, scales and data sets of the study that do not exist and so would be ignored."""
    sets = {path.stem for path in (configs / "data").glob("*.yaml")}
    found = {f"section {key}" for key in set(study) - _KEYS}
    found |= {f"scale {key}" for key in set(study.get("changes", {})) - set(SCALES)}
    for entry in study["students"].values():
        found |= {f"data set {key}" for key in set(entry.get("with_data", {})) - sets}
    if found:
        raise UsageError(f"study={name}: there is no {', no '.join(sorted(found))}; correct configs/study/{name}.yaml")


def _piece(
    configs: Path, group: str, name: str, entry: Mapping[str, Any], of: Mapping[str, Any], scale: str
) -> dict[str, Any]:
    """The piece ``name`` of a study, unless it is a student: the file that it names, else the scale's, else that of its own
    name (a test set), with the study's changes."""
    file = (entry.get(scale) or {}).get("file", entry.get("file"))
    base = read_choice(configs, group, str(file or of.get(group, name)))
    if file is None:
        base = merge(base, of.get(f"{group}_changes", {}))
    if entry.get("high"):
        base = merge(base, of["high"])
    return _changed(base, entry, scale, ("file", "high"))


def _student(entry: Mapping[str, Any], of: Mapping[str, Any], scale: str, data: str) -> dict[str, Any]:
    """A student: the model of the scale, with a token or without."""
    model = dict(of["models"][entry.get("model", "tiny")])
    if entry.get("token"):
        model["arch"] = model["arch"].replace("_patch", "_distilled_patch")
    base = model | {"distillation": NONE, "token": False} | dict(of.get("student_changes", {}))
    changed = _changed(base, entry, scale, ("model", "with_data"))
    return merge(changed, entry.get("with_data", {}).get(data, {}))


def _changed(base: Mapping[str, Any], entry: Mapping[str, Any], scale: str, ours: tuple[str, ...]) -> dict[str, Any]:
    ours = (*ours, *SCALES, "scales")
    for changes in (entry, entry.get(scale) or {}):
        base = merge(base, {key: value for key, value in changes.items() if key not in ours})
    return dict(base)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``; mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_choice(configs: Path, group: str, name: str) -> dict[str, Any]:
    """``configs/<group>/<name>.yaml``. Raises UsageError that lists the group's files where it has none of that name."""
    path = configs / group / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in (configs / group).glob("*.yaml")))
        raise UsageError(f"{group}={name}: no such file {path}; there are {there}")
    return read_yaml(path)
