"""Files of JSON: ours come back as they are, others are refused."""

import pytest

from pipeline.base import files
from tests.support.hostile import DEEP, LONG


@pytest.mark.parametrize("content", [DEEP, b'{"a":' * 70 + b"1" + b"}" * 70, LONG, b"", b"{", b"\xff", b"[1]]"])
def test_json_that_is_none_of_ours_is_a_valueerror(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        files.parse_json(content)


def test_json_of_ours_is_read_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "x", {"b": [[]]}], "c": {}}
    assert files.parse_json(files.canonical_json(value)) == value
    assert files.parse_json(b"5") == 5
