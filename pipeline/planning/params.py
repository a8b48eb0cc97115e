"""Composing ``params.yaml`` from the small files of ``configs/``. Runs nothing and imports no torch."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.files import sha256_file, whole_directory, write_durably
from pipeline.base.sums import require_sums
from pipeline.planning.pieces import Pieces, parse_pieces
from pipeline.planning.studies import SECTION, compose_study, read_choice
from pipeline.runtime.config import NONE, is_hub, parse_yaml, write_yaml
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.work import Work

CHOICES = ("study", "scale", "data", "freeze", *SECTION)


def compose(configs: Path, choices: list[str]) -> dict[str, Any]:
    """The whole of ``params.yaml`` from choices and overrides.

    Choices: ``study=distillation scale=demo`` (``planning.studies``), or piece by piece: ``data=imagenet``,
    ``student=deit_tiny,deit_small``; the rest comes from ``defaults`` in the data set's file. Overrides, with values in YAML:
    ``trainings.deit.epochs=100`` for one piece, ``training.epochs=100`` for all of a kind. A piece that names no recipe,
    teacher, cache or training takes the first one that is chosen. ``freeze=NAME``: the fitted teacher stays as ``freeze`` copies
    it, while the data grow.

    Raises UsageError for an unknown choice, key or value, and for pieces that do not go together.
    """
    pairs = [_split(choice) for choice in choices]
    named = dict(pairs)
    if "study" not in named and "scale" in named:
        raise UsageError("scale: only a study has one; choose study=... as well")
    beside = sorted(set(named) & set(SECTION))
    if "study" in named and beside:
        raise UsageError(
            f"{', '.join(beside)}: a study brings its own pieces; change them by overrides such as training.epochs=100"
        )
    if "study" in named:
        params = compose_study(configs, named["study"], named.get("scale", "full"), named.get("data"))
    else:
        params = _compose_pieces(configs, named)
    _link(params)
    for name in _frozen_names(named):
        if name not in params["teachers"]:
            raise UsageError(f"freeze={name}: no such teacher; there are {', '.join(params['teachers']) or 'none'}")
        params["teachers"][name] |= {"weights": str(_frozen(name)), "initial": None, "initial_key": None}
    overrides = [(name, value) for name, value in pairs if name not in CHOICES]
    for name, value in overrides:
        _drop_old_model(params, name, value)
    for name, value in overrides:
        _override(params, name, value)
    parse_pieces(params)
    return params


def _compose_pieces(configs: Path, chosen: Mapping[str, str]) -> dict[str, Any]:
    """The chosen pieces, and for groups without a choice the defaults in the data set's file."""
    data = chosen.get("data", "digits")
    params = read_choice(configs, "data", data)
    defaults = params.pop("defaults", {})
    for group, section in SECTION.items():
        names = chosen[group].split(",") if group in chosen else _listed(defaults.get(group))
        if not names and group != "test_set":
            raise UsageError(
                f"{configs}/data/{data}.yaml: defaults.{group} is missing; add it, or choose one: {group}=..."
            )
        params[section] = {name: read_choice(configs, group, name) for name in names if name != NONE}
    return params


def _listed(value: object) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _frozen_names(named: Mapping[str, str]) -> list[str]:
    return named["freeze"].split(",") if "freeze" in named else []


def _frozen(name: str) -> Path:
    return Path("work/frozen") / f"{name}.safetensors"


def freeze(choices: list[str], work: Path) -> None:
    """Copies the weights of each teacher that ``freeze=`` names to where params.yaml says that they are. Raises UsageError where
    a teacher was not fitted."""
    for name in _frozen_names(dict(map(_split, choices))):
        fitted, copy = Work(work).teacher_weights(name), _frozen(name)
        if not fitted.is_file():
            raise UsageError(f"freeze={name}: there is no {fitted}; fit it first: dvc repro teacher@{name}")
        require_sums(fitted)
        write_durably(copy, fitted.read_bytes())
        say(f"{copy}: teacher {name} stays this one while the data grow; keep the file, or dvc add it")


def _link(params: dict[str, Any]) -> None:
    """Adds the first recipe, teacher, cache and training to every piece that names none, in front of its other keys."""
    first = {group: next(iter(params[section]), NONE) for group, section in SECTION.items()}
    for name, entry in params["teachers"].items():
        params["teachers"][name] = {"recipe": first["recipe"], "student": NONE} | entry
    for name, entry in params["caches"].items():
        params["caches"][name] = {"recipe": first["recipe"], "teacher": first["teacher"]} | entry
    for name, entry in params["students"].items():
        cache = NONE if entry.get("distillation") == "none" or entry.get("teacher", NONE) != NONE else first["cache"]
        links = {"recipe": first["recipe"], "training": first["training"], "cache": cache, "teacher": NONE}
        params["students"][name] = links | {"parent": NONE} | entry


def write_weights(pieces: Pieces, out: Path) -> None:
    """A file for each key of ``named_weights`` in the directory ``out``: sha256 of a local file, else the name. Stages
    depend on these, so that DVC sees a file of weights that was replaced in place."""
    with whole_directory(out, ("named",)) as fresh:
        write_durably(fresh / "named", b"")
        for key, name in pieces.named_weights().items():
            seen = NONE if name is None else name if is_hub(name) else sha256_file(Path(name))
            write_durably(fresh / key, f"{seen}\n".encode())


def write_params(params: Mapping[str, Any], path: Path, choices: list[str]) -> None:
    """Writes ``params.yaml`` with the command that composed it."""
    command = " ".join(["python -m stages.configure", *choices])
    about = f"# Written by: {command}\n# Edit it here or write it again; every key is described in configs/."
    path.write_text(f"{about}\n{write_yaml(params)}\n", encoding="utf-8")


def _split(choice: str) -> tuple[str, str]:
    name, equals, value = choice.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"{choice!r}: expected name=value, for example data=imagenet or training.epochs=100")
    if name not in CHOICES and "." not in name:
        known = ", ".join(CHOICES)
        raise UsageError(f"{name}: no such choice; there are {known}, and overrides such as training.epochs=100")
    return name, value


def _override(params: dict[str, Any], name: str, value: str) -> None:
    """Sets ``name`` to ``value``; a name that begins with a group, such as ``training.epochs``, in all of its pieces."""
    group, _, rest = name.partition(".")
    if group in SECTION:
        section, inside = SECTION[group], rest.rpartition(".")[0]
        without = [piece for piece, entry in params[section].items() if not _has_section(entry, inside)]
        having = [f"{section}.{piece}.{rest}" for piece in params[section] if piece not in without]
        if without and having:
            raise UsageError(
                f"{name}={value}: there is no section {inside} in {', '.join(f'{section}.{piece}' for piece in without)}; "
                f"set it in the others: {' '.join(shlex.quote(f'{key}={value}') for key in having)}"
            )
        for piece in params[section]:
            _override(params, f"{section}.{piece}.{rest}", value)
        return
    *path, last = name.split(".")
    place: Any = params
    for part in path:
        if not isinstance(place, dict) or part not in place:
            raise UsageError(f"{name}: there is no {part!r} in the configuration; spell it as in params.yaml")
        place = place[part]
    if not isinstance(place, dict):
        raise UsageError(f"{name}: {'.'.join(path)} is no section but the value {place!r}")
    place[last] = parse_yaml(value, f"{name}={value}")


def _drop_old_model(params: dict[str, Any], name: str, value: str) -> None:
    """Where an override gives a piece another model, drops what a preset said of the old one, and says so."""
    group, *path = name.split(".")
    section = SECTION.get(group, group)
    of = list(params.get(section, ())) if group in SECTION else path[:1]
    if path[-1:] != ["arch"] or len(path) != (1 if group in SECTION else 2):
        return
    for piece in of:
        entry = params[section].get(piece)
        if isinstance(entry, dict) and entry.get("arch") != value:
            gone = {key: entry.pop(key) for key in ("arch_args", "drop_path") if key in entry}
            if any(found not in ({}, 0.0) for found in gone.values()):
                told = ", ".join(f"{key} {found}" for key, found in gone.items())
                say(f"{section}.{piece}: {value} takes the place of {entry.get('arch')}, whose {told} are dropped")
            if "arch_args" in gone:
                entry["arch_args"] = {}


def _has_section(entry: Any, path: str) -> bool:
    """Whether ``entry`` holds a mapping at the dotted ``path``; the empty path is ``entry`` itself."""
    for part in path.split(".") if path else ():
        entry = entry.get(part) if isinstance(entry, dict) else None
    return isinstance(entry, dict)
