import pytest

from pipeline.cache.layout import Layout
from pipeline.cache.publish import publish
from pipeline.cache.verify import how_to_restore, targets_of, verify
from pipeline.runtime.errors import UsageError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")


def test_a_pool_is_said_to_hold_the_views_that_all_shards_have(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 6)
    assert verify(pool.path).views == 6
    (pool.path / "commits/1/2.json").unlink()
    report = verify(pool.path)
    assert (report.views, report.parts, report.whole) == (3, 5, 5)


def test_verify_tells_strays_from_damage(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 3)
    (pool.path / "hard/c/7").mkdir()
    (pool.path / "hard/c/7/0").write_bytes(b"x")
    report = verify(pool.path)
    assert report.damaged == () and [finding.state for finding in report.findings] == ["stray"]


def test_a_published_copy_and_a_receipt_are_verified_against_their_records(tmp_path):
    pool = fake.filled(tmp_path / "pool", SHAPE, 3)
    publish(pool, tmp_path / "out", 3, 10**9)
    publish(pool, tmp_path / "receipt", 3, 0)
    (pool.path / "hard/c/0/0").write_bytes(b"x")
    whole, through = verify(tmp_path / "out"), verify(tmp_path / "receipt", tmp_path / "pool")
    assert (whole.kind, whole.whole, whole.findings) == ("published", 3, ())
    assert (through.kind, through.whole, [finding.part for finding in through.damaged]) == ("receipt", 2, [(0, 0)])
    assert "rm -r" in how_to_restore(verify(tmp_path / "out")) and "rm -r" not in how_to_restore(through)
    assert "dvc repro -s -f precompute" in how_to_restore(through)
    with pytest.raises(UsageError, match="set DISTIL_POOL"):
        verify(tmp_path / "receipt", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="neither a teacher cache nor a work pool"):
        targets_of(tmp_path / "nowhere")
