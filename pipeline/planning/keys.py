"""The tables of configs/README.md, written from the config models: each field's type, range, default and docstring."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.files import write_durably
from pipeline.planning.pieces import MODELS

_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"string": "text", "object": "mapping", "null": "null", "integer": "integer", "number": "number"}


def write_tables(page: Path) -> None:
    """Writes the tables below the head of ``page``, which is written by hand and ends at the first section."""
    head = page.read_text(encoding="utf-8").partition("\n## ")[0].rstrip()
    write_durably(page, f"{head}\n{tables()}".encode())


def tables() -> str:
    """One section per section of params.yaml, in Markdown."""
    return "".join(_section(name, model.model_json_schema()) for name, model in MODELS.items())


def _section(name: str, schema: dict[str, Any]) -> str:
    rows = "\n".join(f"| {' | '.join(row)} |" for row in _rows(schema, schema.get("$defs", {}), ""))
    head = "| key | takes | default | meaning |\n|---|---|---|---|"
    return f"\n## {name}\n\n{_text(schema)}\n\n{head}\n{rows}\n"


def _rows(schema: dict[str, Any], models: dict[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    """A row per field; the fields of a model inside follow it under dotted names."""
    for name, field in schema["properties"].items():
        inner = next((models[_reference(kind)] for kind in _kinds(field) if "$ref" in kind), None)
        default = "required" if name in schema.get("required", ()) else _value(field.get("default", {}))
        yield f"`{path}{name}`", " or ".join(map(_takes, _kinds(field))), default, _text(field)
        if inner is not None:
            yield from _rows(inner, models, f"{path}{name}.")


def _kinds(field: dict[str, Any]) -> list[dict[str, Any]]:
    return field.get("anyOf", [field])


def _reference(kind: dict[str, Any]) -> str:
    return str(kind["$ref"]).rpartition("/")[2]


def _takes(kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind.get("type") == "boolean":
        return "`true`, `false`"
    if kind.get("type") == "array":
        return f"{kind['maxItems']} numbers" if "maxItems" in kind else "numbers"
    limits = ", ".join(f"{sign} {_limit(kind[key])}" for key, sign in _LIMITS.items() if key in kind)
    return f"{_TYPES[kind.get('type', 'object')]} {limits}".rstrip()


def _value(value: object) -> str:
    """A default as it stands in params.yaml, with few digits; none for a mapping, whose fields have their own."""
    if isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return f"`[{', '.join(f'{number:g}' for number in value)}]`"
    return f"`{value if isinstance(value, str) else f'{value:g}' if isinstance(value, float) else json.dumps(value)}`"


def _limit(number: Any) -> str:
    power = isinstance(number, int) and number > 2**30 and number.bit_count() == 1
    return f"2^{number.bit_length() - 1}" if power else f"{number:,}"


def _text(of: dict[str, Any]) -> str:
    return " ".join(of["description"].split()).replace("``", "`").replace("|", "\\|")
