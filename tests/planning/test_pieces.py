"""Pieces of params.yaml: each key and each link is refused by name, all at once."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.files import digest
from pipeline.planning.advice import advice
from pipeline.planning.params import compose
from pipeline.planning.pieces import examine_pieces, parse_pieces
from pipeline.runtime.config import parse_yaml
from pipeline.runtime.errors import UsageError

CONFIGS = Path("configs")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"students.soft.cache": "cifar"},
            "students.soft.cache: there is no 'cifar' under caches (there is digits, none)",
        ),
        ({"students.soft.recipe": "big"}, "students.soft.cache: digits holds views of recipe digits"),
        ({"students.soft.teacher": "other"}, "students.soft.teacher: other is not the teacher of cache digits"),
        ({"teachers.other.student": "soft", "caches.digits.teacher": "other"}, "waits for itself"),
        ({"students.soft.parent": "soft"}, "students.soft: waits for itself"),
        ({"students.soft.cache": "none"}, "a distilled student names a cache or a teacher"),
    ],
)
def test_pieces_that_do_not_go_together_are_refused(change: dict[str, str], sentence: str) -> None:
    params = compose(CONFIGS, [])
    params["recipes"]["big"] = params["recipes"]["digits"] | {"size": 36}
    params["teachers"]["other"] = {"recipe": "digits", "arch": "regnety_002", "fit": {"epochs": 1, "batch": 16}}
    if "teachers.other.student" in change:
        params["teachers"]["other"] = {"recipe": "digits", "arch": "regnety_002"}
    for key, value in change.items():
        section, piece, name = key.split(".")
        params[section][piece] = params[section][piece] | {name: value}
    with pytest.raises(UsageError, match=re.escape(sentence)):
        parse_pieces(params)


def test_all_problems_are_told_at_once() -> None:
    params = compose(CONFIGS, [])
    params["students"]["soft"] |= {"alpha": 2.0}
    params["trainings"]["digits"] |= {"epochs": -1}
    params["caches"]["none"] = params["caches"].pop("digits")
    with pytest.raises(UsageError) as refusal:
        parse_pieces(params)
    for part in ("students.soft.alpha", "trainings.digits.epochs", "caches.none: expected a name"):
        assert part in str(refusal.value)


def numbers(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all numbers in nested mappings."""
    if isinstance(value, dict):
        return [found for key, entry in value.items() for found in numbers(entry, (*path, key))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**63], ids=["huge", "negative", "64 bits"])
def test_no_number_of_params_may_be_too_large_to_count_with(number: int) -> None:
    params = compose(CONFIGS, [])
    whole = [path for path in numbers(params) if path[0] != "students" or path[1] == "soft"]
    assert len(whole) > 50
    for path in whole:
        broken = copy.deepcopy(params)
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = number
        _, problems = examine_pieces(broken)
        if number != 2**63:  # which a float may be
            assert any(path[-1] in problem for problem in problems), path
        assert all(len(problem) < 1000 for problem in problems)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "none", "-a", "a" * 300, "ä", "a b", "a\n"])
def test_a_name_that_is_no_directorys_is_refused_in_every_section(name: str) -> None:
    params = compose(CONFIGS, [])
    for section in ("recipes", "teachers", "caches", "trainings", "students"):
        first = next(iter(params[section].values()))
        _, problems = examine_pieces(params | {section: params[section] | {name: first}})
        assert len([p for p in problems if p.startswith(f"{section}.")]) == 1, section


HOSTILE = """
.nan|-.inf|.INF|1e400|-1e999|2001-01-01|2001-01-01T10:00:00Z|1_0.5|1_000|0x1_F|1_0e3|!!binary aGk=|!!set {a}|!!omap [a: 1]
!!timestamp x|!!timestamp []|!!int x|!!int ""|!!float []|!!float ""|!!bool x|!!null x|!!binary x|!!binary []|!!set [1]|!!map x
!!seq x|!!python/name:os.system x|!other x|[.nan]|{a: 1_0}|[[2001-01-01]]|&a [*a]|&a {b: *a}|{? [1]}|*none|%x|@x|`x
null|~|true|no|""|" "|0|-1|-0.0|1e-300|1e300|1.0|0x1F|0o17|007|99999999999999999999|1e3|[]|{}|[1]|[[]]|{a: 1}|{"": 1}|{1: 1}
{true: 1}|a|none|../x|/|/dev/null|a b|"\\0"|"\\e[31m"|"\\u202e"|"\\ud800"|é|😀|<<|=|- 1|"1"|'null'|hf-hub:../../x|hf-hub: a/b|timm
hf-hub:|!!str 1|!!str []|[a, b]|{a: {b: {c: 1}}}
""".strip().replace("\n", "|").split("|")  # fmt: skip
LONG_VALUES = ["x" * 10_000, "9" * 5_000, "[" * 200 + "]" * 200]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from leaves(entry, (*path, key))
    else:
        yield path


def with_leaf(params: Any, path: tuple[str, ...], value: Any) -> Any:
    return {**params, path[0]: with_leaf(params[path[0]], path[1:], value)} if path else value


def test_a_hostile_value_on_any_leaf_ends_in_sentences() -> None:
    """Refused by YAML with its key, or by the pieces, or taken; what is taken can be written, hashed and advised on."""
    params = compose(Path("configs"), ["data=imagenet", "teacher=regnety_fitted"])
    taken, refused = [], 0
    for text in [*HOSTILE, *LONG_VALUES]:
        try:
            taken.append(parse_yaml(f"key: {text}", "params.yaml")["key"])
        except UsageError as error:
            assert str(error).startswith("params.yaml: "), text
            refused += 1
    assert len(HOSTILE) > 80 and refused > 35
    places = list(leaves(params))
    assert len(places) > 90
    for path in places:
        for value in taken:
            changed = with_leaf(params, path, value)
            pieces, problems = examine_pieces(changed)
            assert all(line for problem in problems for line in problem.split("\n")), (path, value)
            if not problems:
                advice(pieces)
                digest(changed)


def test_anchors_that_stand_for_too_many_values_or_for_themselves_are_refused() -> None:
    doubling = "\n".join(["a0: &a0 [1, 2]", *(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]" for i in range(40))])
    for text in (doubling, "a: &a {b: *a}"):
        with pytest.raises(UsageError, match=r"params.yaml: its anchors stand for more than 1000000 values"):
            parse_yaml(text, "params.yaml")
    assert parse_yaml("a: &a [1]\nb: *a", "params.yaml") == {"a": [1], "b": [1]}
