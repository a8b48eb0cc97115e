"""Publications: equal byte for byte, whole or absent, or receipts that pin the parts of a pool."""

import pytest

from pipeline.cache.layout import Layout
from pipeline.cache.pool import open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.runtime.errors import IntegrityError, UsageError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="none")


def test_two_publications_are_equal_byte_for_byte_and_replace_what_was_there(tmp_path):
    pool = fake.filled(tmp_path / "pool", SHAPE, 6)
    other = fake.filled(tmp_path / "other", SHAPE, 6)
    publish(pool, tmp_path / "out", 3, 10**9)
    publish(pool, tmp_path / "out", 6, 10**9)
    publish(other, tmp_path / "copy", 6, 10**9)
    assert tree(tmp_path / "out") == tree(tmp_path / "copy")
    assert len(tree(tmp_path / "out")) == 2 * 6 + 2
    assert {path.stat().st_nlink for path in (tmp_path / "out").rglob("*") if path.is_file()} == {1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "other", "out", "pool"]


def test_publishing_an_incomplete_or_damaged_cache_is_refused_and_leaves_nothing(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    for part in list(SHAPE.parts(6))[:-2]:
        fake.commit(pool, part)
    with pytest.raises(UsageError, match="2 of 6 parts"):
        publish(pool, tmp_path / "work" / "out", 6, 10**9)
    chunk = pool.path / "hard/c/0/1"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"hard/c/0/1: expected .* xxh3"):
        publish(pool, tmp_path / "work" / "out", 3, 10**9)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_big_cache_is_published_as_a_receipt_that_pins_the_parts(tmp_path):
    pool = fake.filled(tmp_path / "pool", SHAPE, 6)
    publish(pool, tmp_path / "out", 6, publish_max=100)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["receipt.json"]
    cache = open_cache(tmp_path / "out", fake.identity(SHAPE), pool=tmp_path / "pool")
    block = fake.blocks(SHAPE)[-1]
    assert fake.same(cache.read(block, 5), fake.expected(SHAPE, block, 5))
    with pytest.raises(UsageError, match="set DISTIL_POOL"):
        open_cache(tmp_path / "out", pool=tmp_path / "elsewhere")
    (pool.path / "commits/1/2.json").unlink()
    with pytest.raises(IntegrityError, match=r"1 of 6 parts .*commits/1/2.json"):
        open_cache(tmp_path / "out", pool=tmp_path / "pool")
    fake.commit(pool, (1, 2), attempt=1)  # the same part, computed anew with other bits
    cache = open_cache(tmp_path / "out", pool=tmp_path / "pool")
    with pytest.raises(IntegrityError, match="computed anew after the receipt"):
        cache.read(block, 5)
    receipt = tmp_path / "out" / "receipt.json"
    receipt.write_bytes(receipt.read_bytes().replace(b'"views":6', b'"views":3'))
    with pytest.raises(IntegrityError, match="damaged receipt"):
        open_cache(tmp_path / "out", pool=tmp_path / "pool")


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
