"""Pieces of params.yaml: each key and each link is refused by name, all at once."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.planning.params import compose
from pipeline.planning.pieces import examine_pieces, parse_pieces
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
