"""Strict loading of ``params.yaml`` into frozen pydantic models, by the YAML 1.2 library that DVC uses.

An unknown key, a wrong type, a duplicate key, a key that is no text or a number out of range is refused with the path of the
key. Each model stands in the room that it configures.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.runtime.errors import UsageError, first_line
from pipeline.runtime.text import clipped

NONE = "none"  # the name of what a piece does not use
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"  # of a piece: it names a directory and a DVC stage
_MOST = 1_000_000  # values in a file; a study of dozens of students has some thousands
_WIDTH = 4096  # no line is wrapped here: ruamel.yaml would break a key of several words, which no parser reads back


class Config(BaseModel):
    """Base of every config model: frozen, strict, no unknown keys. A field's docstring is its row in configs/README.md."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


C = TypeVar("C", bound=Config)
P = TypeVar("P")
Scalar = bool | int | float | str
WeightsKey = Literal["model", "model_ema", "state_dict", "state_dict_ema"]  # of weights in a training checkpoint
# Of a timm model; read-only for the type checker, a plain dict that pickles.
ArchArgs = Mapping[str, Scalar | list[int]]
_HUB = re.compile(r"hf-hub:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?", re.ASCII)


def _weights(name: str) -> str:
    if name.startswith("hf-hub:") and (".." in name or not _HUB.fullmatch(name)):
        raise ValueError("expected hf-hub:owner/name or hf-hub:owner/name@revision")
    return name


Weights = Annotated[str, Field(min_length=1), AfterValidator(_weights)]  # a name of weights: see ``is_hub``


class _Constructor(SafeConstructor):
    """Marks numbers with an underscore, which YAML 1.2 has not: ruamel.yaml would take "1_0.5" for 10.5."""


def _marked(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, node: _Underscored(node.value) if "_" in node.value else construct(self, node)


@dataclass(frozen=True)
class _Underscored:
    text: str

    def __str__(self) -> str:
        return self.text


_Constructor.add_constructor("tag:yaml.org,2002:int", _marked(SafeConstructor.construct_yaml_int))
_Constructor.add_constructor("tag:yaml.org,2002:float", _marked(SafeConstructor.construct_yaml_float))


def parse_yaml(text: str, where: object) -> Any:
    """Plain data from YAML 1.2 text: ``1e-3`` is a number, ``no`` is text. ``where`` is for messages.

    Raises UsageError for what is no YAML, a key that is given twice, a key that YAML reads as something else than text,
    which DVC would pass over silently, and every value that JSON does not have: dates, bytes, sets, infinite numbers.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        value = reader.load(text)
    except RecursionError:
        raise UsageError(f"{where}: not valid YAML: nested too deeply") from None
    except Exception as error:  # YAMLError, and whatever tags and dates that are none raise inside the library
        raise UsageError(f"{where}: not valid YAML: {_without_advice(error)}") from None
    for path, key, _ in _entries(value):
        if not isinstance(key, str):
            kind = type(key).__name__
            raise UsageError(f"{where}: YAML reads the key {path} as {kind} and not as text; write it in quotes")
    places = [("", value), *((f" {path}:", entry) for path, _, entry in _entries(value))]
    problems = [f"{where}:{path} {problem}" for path, entry in places if (problem := _foreign(entry))]
    if problems:
        raise UsageError("\n".join(problems))
    if _written_out(value, {}) > _MOST:
        raise UsageError(f"{where}: its anchors stand for more than {_MOST} values, or for themselves; write them out")
    return value


def _written_out(value: Any, known: dict[int, float]) -> float:
    """How many values there are without anchors; infinitely many where one contains itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(entry, known) for entry in inner)
    return known[id(value)]


def _foreign(value: Any) -> str:
    """What keeps ``value`` from being plain data; "" if nothing does."""
    if isinstance(value, _Underscored):
        return (
            f"{value} has an underscore, which YAML 1.2 has in no number; write the number without, or a text in quotes"
        )
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, found {value}; correct it, or write a text in quotes"
    if value is None or isinstance(value, str | bool | int | float | dict | list):
        return ""
    shown = clipped(repr(value), 80)
    return f"YAML reads {type(value).__name__} {shown}; write a text in quotes, else a number, a list or a mapping"


def _without_advice(error: Exception) -> str:
    """The library's sentence in one line. Of a duplicate key only the key and its line: the library adds advice to allow it."""
    if isinstance(error, DuplicateKeyError):
        found = re.search(r"duplicate key \"(.*?)\"", str(error))
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark is not None else ""
        return f"key given twice: {found[1] if found else ''}{line}"
    return " ".join((str(error) or type(error).__name__).split())


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted path, the key and the value of every entry of nested mappings and lists. An object that an anchor names
    many times is visited once."""
    todo, visited = [(path, value)], set[int]()
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict | list) and id(value) not in visited:
            visited.add(id(value))
            items = value.items() if isinstance(value, dict) else ((f"[{i}]", entry) for i, entry in enumerate(value))
            for key, entry in items:
                inner = f"{path}.{key}" if path else str(key)
                yield inner, key, entry
                todo.append((inner, entry))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError if it is missing, unreadable or not a mapping."""
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write it with: python -m stages.configure") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not valid YAML: {first_line(error)}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected a mapping of sections, found {type(document).__name__}")
    return document


class _Representer(RoundTripRepresenter):
    """Writes null as a word, where ruamel.yaml leaves the place empty; and quotes a text that begins with "?" or ":", which
    inside a list would begin a key or a value."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
_Representer.add_representer(
    str,
    lambda self, text: self.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text.startswith(("?", ":")) else None
    ),
)


def write_yaml(value: Mapping[str, Any]) -> str:
    """Nested plain data as YAML 1.2 text: mappings in block style, lists in one line, texts that look like numbers
    quoted, so that DVC's parser reads back equal values of equal types."""
    writer, stream = YAML(), io.StringIO()
    writer.Representer = _Representer
    writer.width, writer.allow_unicode = _WIDTH, True
    writer.dump(_styled(value), stream)
    return stream.getvalue().rstrip("\n")


def _styled(value: Any) -> Any:
    if isinstance(value, Mapping):
        styled = CommentedMap((key, _styled(entry)) for key, entry in value.items())
        if not styled:
            styled.fa.set_flow_style()
        return styled
    if isinstance(value, list | tuple):
        listed = CommentedSeq(_styled(entry) for entry in value)
        listed.fa.set_flow_style()
        return listed
    return value


def is_hub(weights: str) -> bool:
    """Whether a name of weights is "timm" (the hub's weights of the tagged model) or "hf-hub:owner/name[@revision]"; any
    other names a local file."""
    return weights == "timm" or weights.startswith("hf-hub:")


def validate(model: type[C], value: object, where: str) -> C:
    """``value`` (plain YAML data) as a ``model``; ``where`` is the key's path for messages. Raises UsageError."""
    try:
        # JSON mode of strict pydantic takes lists for tuples and whole numbers for floats, and nothing else.
        found = model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise UsageError("\n".join(_sentence(where, item) for item in error.errors())) from None
    except (TypeError, RecursionError, ValueError) as error:  # a date, or what JSON does not know otherwise
        raise UsageError(f"{where}: {first_line(error)}") from None
    for path, _, number in _entries(value):
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise UsageError(f"{where}.{path}: expected a number of at most 64 bits")
    return found


def _sentence(where: str, item: Any) -> str:
    path = ".".join([where, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key (value {clipped(repr(item['input']), 80)}); remove it or correct its spelling"
    message = item["msg"].removeprefix("Value error, ")
    found = (
        "" if isinstance(item["input"], dict) else f", found {clipped(repr(item['input']), 80)}"
    )  # a whole section is no help
    return f"{path}: {message}{found}"


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


def peek(load_piece: Callable[[Path, str], P], path: Path, name: str) -> P | None:
    """The piece ``name`` for checks that can only refuse and so change no result: no ``params:`` of dvc.yaml names it,
    since DVC 3.67.1 can't name the teacher of a student's cache. None for a piece called ``none``."""
    return None if name == NONE else load_piece(path, name)


def load_each(path: Path, section: str, model: type[C], optional: bool = False) -> dict[str, C]:
    """The entries of a section that is a mapping, such as ``students``, each as a ``model``; none if an ``optional`` section
    is absent. Raises UsageError."""
    document = read_yaml(path)
    if optional and section not in document:
        return {}
    entries = document.get(section)
    if not isinstance(entries, dict):
        raise UsageError(f"{path}: {section}: expected a mapping, found {entries!r}")
    return {name: validate(model, entry, f"{path}: {section}.{name}") for name, entry in entries.items()}
