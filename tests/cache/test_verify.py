import json

import pytest
from click.testing import CliRunner

from bench.proofs import damage
from pipeline.cache.layout import Layout, committed
from pipeline.cache.publish import publish
from pipeline.cache.repair import repair
from pipeline.cache.verify import advice, targets_of, verify
from pipeline.runtime.errors import UsageError
from stages.verify import main
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")


def test_repair_drops_only_what_is_damaged_and_the_next_job_makes_it_anew(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 6)
    clean = {path: path.read_bytes() for path in pool.path.rglob("*") if path.is_file() and path.name != "log.jsonl"}
    (pool.path / "hard/c/0/1").write_bytes(b"")
    (pool.path / "commits/1/2.json").write_bytes(b"{}")
    (pool.path / "logits/c.1.0.0").unlink()
    (pool.path / "logits/c.1.0.0").mkdir()
    report = verify(targets_of(tmp_path)[0])
    assert [finding.part for finding in report.damaged] == [(0, 1), (1, 0), (1, 2)] and report.whole == 3
    assert repair(pool.path, [(0, 0), *(finding.part for finding in report.damaged)]) == ((0, 1), (1, 0), (1, 2))
    assert not verify(pool.path).findings
    todo = set(SHAPE.parts(6)) - committed(pool)
    assert todo == {(0, 1), (1, 0), (1, 2)}
    for part in todo:
        fake.commit(pool, part)
    assert all(path.read_bytes() == content for path, content in clean.items())


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
    assert "rm -r" in advice(verify(tmp_path / "out")) and "rm -r" not in advice(through)
    assert "dvc repro -s -f precompute" in advice(through)
    with pytest.raises(UsageError, match="set DISTIL_POOL"):
        verify(tmp_path / "receipt", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="neither a teacher cache nor a work pool"):
        targets_of(tmp_path / "nowhere")


def test_the_stage_repairs_a_pool_and_says_how_to_restore_a_published_copy(tmp_path):
    pool = fake.filled(tmp_path / "pool", SHAPE, 3)
    publish(pool, tmp_path / "out", 3, 10**9)
    for cache in (pool.path, tmp_path / "out"):
        (cache / "hard/c/0/1").write_bytes(b"x")
    run = CliRunner().invoke
    assert run(main, [str(tmp_path / "pool")]).exit_code == 3
    repaired = run(main, [str(tmp_path / "pool"), "--repair", "--gc", "--json"])
    assert repaired.exit_code == 0 and json.loads(repaired.stdout)[0]["dropped"] == [[0, 1]]
    assert committed(pool) == {(0, 0), (0, 2)}
    copy = run(main, [str(tmp_path / "out"), "--repair"])
    assert copy.exit_code == 3 and "never written in place" in copy.output
    assert (tmp_path / "out" / "hard/c/0/1").read_bytes() == b"x"


def test_every_class_of_damage_is_found_by_verify_and_by_a_reader(tmp_path):
    result = damage.run(tmp_path, cases=2, clean_reads=100, seed=0)
    assert set(result.cases.values()) == {2} and len(result.cases) >= 12
    assert result.faults == []
