"""Strict loading of ``params.yaml`` into frozen pydantic models.

Nothing is guessed: an unknown key, a wrong type, ``1e-3`` read by YAML as text, a duplicate key or a number out of
range is refused with the path of the key. Each model stands in the module that it configures.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.runtime.errors import UsageError


class Config(BaseModel):
    """Base of every config model: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)
Scalar = bool | int | float | str
ArchArgs = Mapping[
    str, Scalar
]  # of a timm model; read-only for the type checker, a plain dict underneath, so that it pickles


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, except that a key given twice is an error (YAML takes the last one silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError if it is missing, unreadable or not a mapping."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write it with: python -m stages.configure") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected a mapping of sections, found {type(document).__name__}")
    return document


def validate(model: type[C], value: object, where: str) -> C:
    """``value`` (plain YAML data) as a ``model``; ``where`` is the key's path for messages. Raises UsageError."""
    try:
        # JSON mode of strict pydantic takes lists for tuples and whole numbers for floats, and nothing else.
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise UsageError("\n".join(_sentence(where, item) for item in error.errors())) from None
    except TypeError as error:  # a YAML date or another type that JSON does not know
        raise UsageError(f"{where}: {error}") from None


def _sentence(where: str, item: Any) -> str:
    path = ".".join([where, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key (value {item['input']!r}); remove it or correct its spelling"
    hint = ""
    if isinstance(item["input"], str) and item["type"].startswith(("float", "int")):
        hint = "; YAML read it as text: write 0.001 or 1.0e-3, not 1e-3"
    message = item["msg"].removeprefix("Value error, ")
    found = "" if isinstance(item["input"], dict) else f", found {item['input']!r}"  # a whole section is no help
    return f"{path}: {message}{found}{hint}"


def load(path: Path, section: str, model: type[C]) -> C:
    """Section ``section`` (dots descend, e.g. ``students.soft``) of ``params.yaml`` as a ``model``.

    Raises UsageError (exit 2) that names the file and the key.
    """
    value: Any = read_yaml(path)
    for part in section.split("."):
        if not isinstance(value, dict) or part not in value:
            known = ", ".join(value) if isinstance(value, dict) else "nothing"
            raise UsageError(f"{path}: no section {section!r} ({part!r} is missing; there is {known})")
        value = value[part]
    return validate(model, value, f"{path}: {section}")


def load_each(path: Path, section: str, model: type[C]) -> dict[str, C]:
    """The entries of a section that is a mapping, such as ``students``, each as a ``model``. Raises UsageError."""
    value = read_yaml(path).get(section)
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{path}: {section}: expected a mapping with at least one entry, found {value!r}")
    return {str(key): validate(model, entry, f"{path}: {section}.{key}") for key, entry in value.items()}


def outline(value: dict[str, Any]) -> str:
    """Nested plain data for a person to read, as YAML."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True).rstrip()
