"""Records of parts: functions of identity, part and rows; others are refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.layout import Layout, Store, record_key
from pipeline.cache.records import parse_record, row_digest
from pipeline.runtime.errors import IntegrityError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")


def test_a_record_is_a_function_of_identity_part_and_rows(tmp_path):
    a, b = (fake.filled(tmp_path / name, SHAPE, 3).path for name in "ab")
    for part in SHAPE.parts(3):
        assert (a / record_key(part)).read_bytes() == (b / record_key(part)).read_bytes()


def test_the_row_digest_depends_on_identity_part_view_block_and_every_row():
    hard, logits = np.arange(4, dtype=np.uint16), np.zeros((4, 3), np.float32)
    base = row_digest("i", (0, 1), 2, 3, hard, logits)
    assert base == row_digest("i", (0, 1), 2, 3, hard.copy(), logits[:, :])
    changed = logits.copy()
    changed[3, 2] = -0.0
    others = [
        row_digest("j", (0, 1), 2, 3, hard, logits),
        row_digest("i", (1, 0), 2, 3, hard, logits),
        row_digest("i", (0, 1), 3, 2, hard, logits),
        row_digest("i", (0, 1), 2, 3, hard[::-1], logits),
        row_digest("i", (0, 1), 2, 3, hard, changed),
        row_digest("i", (0, 1), 2, 3, hard, None),
    ]
    assert len({base, *others}) == 7


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b"\xff", b'{"checksum":1}', b"[" * 100_000, b'{"files":3,"checksum":""}'],
)
def test_a_record_that_is_no_record_raises_only_our_error(content):
    with pytest.raises(IntegrityError, match=r"damaged commit record.*repair"):
        parse_record(content, Store(Path("here"), {}, "i", SHAPE), (0, 0))


def test_a_valid_record_of_another_identity_part_or_layout_is_refused_with_both_values(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 3)
    content = (pool.path / "commits/0/1.json").read_bytes()
    for message, changes, part in (
        ("identity: expected other", {"hash": "other"}, (0, 1)),
        (r"part: expected \[0, 0\], found \[0, 1\]", {}, (0, 0)),
        ("files: expected", {"layout": dataclasses.replace(SHAPE, codec="none")}, (0, 1)),
        ("digests: expected", {"layout": dataclasses.replace(SHAPE, block=32)}, (0, 1)),
    ):
        with pytest.raises(IntegrityError, match=message):
            parse_record(content, dataclasses.replace(pool, **changes), part)
    assert json.loads(content)["part"] == [0, 1]
