"""Differences between two identities: every field alone is seen, with both values."""

import json

import pytest

from pipeline.base import difference, files
from pipeline.cache.layout import Layout
from pipeline.runtime.errors import IdentityError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="none")


def leaves(value, path=()):
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
    return [path]


@pytest.mark.parametrize("path", leaves(fake.identity(SHAPE)), ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_the_identity_alone_is_refused_with_both_values(path):
    changed = json.loads(json.dumps(fake.identity(SHAPE)))
    place = changed
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = new = old + 1 if isinstance(old, int | float) else old + "x"
    with pytest.raises(IdentityError) as refusal:
        difference.require_same(changed, fake.identity(SHAPE), "here", "do this")
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
    assert f"{name}: expected {new!r}, found {old!r}" in str(refusal.value)
    assert files.digest(changed) != files.digest(fake.identity(SHAPE))


def test_fields_of_equal_value_and_other_type_or_absent_fields_are_differences():
    assert difference.differences({"a": 1}, {"a": 1.0}) == [("a", 1, 1.0)]
    assert difference.differences({"a": True}, {"a": 1}) == [("a", True, 1)]
    assert difference.differences({"a": 1}, {}) == [("a", 1, "absent")]
    assert difference.differences({}, {"a": {"b": 1}}) == [("a", "absent", {"b": 1})]
    assert difference.differences({"a": [1, 2]}, {"a": [1]}) == [("a", "2 entries", "1 entries")]
