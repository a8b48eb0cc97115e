"""Repair: it drops what is damaged, collects what nobody needs, and readers meanwhile get rows or an error."""

import json

import pytest
from click.testing import CliRunner

from pipeline.cache.layout import Layout, committed, file_key
from pipeline.cache.pool import open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.cache.repair import collect, repair
from pipeline.cache.verify import targets_of, verify
from pipeline.runtime.errors import IntegrityError
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


def test_garbage_collection_keeps_live_young_and_committed_staging(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))

    def collect_now(step):
        if step == "wrote record":
            assert collect(pool.path, older_than=0).removed == ()

    assert fake.commit(pool, (0, 0), reach=collect_now)
    fake.stop_at(pool, (0, 1), "linked")
    fake.stop_at(pool, (0, 2), "wrote logits")
    assert collect(pool.path, older_than=60).removed == ()
    garbage = collect(pool.path, older_than=0)
    assert len(garbage.removed) == 2 and garbage.bytes > 0
    assert committed(pool) == {(0, 0), (0, 1)} and not verify(pool.path).findings


def test_a_reader_whose_part_is_repaired_under_it_gets_the_new_rows_or_an_error(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 3)
    block = fake.blocks(SHAPE)[0]
    cache = open_cache(pool.path)
    assert fake.same(cache.read(block, 0), fake.expected(SHAPE, block, 0))
    chunk = pool.path / file_key("logits", (0, 0))
    chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(IntegrityError):
        cache.read(block, 0)
    assert repair(pool.path, [(0, 0), (0, 1)]) == ((0, 0),)
    with pytest.raises(IntegrityError, match="no commit record"):
        cache.read(block, 0)
    fake.commit(pool, (0, 0), attempt=7)
    assert fake.same(cache.read(block, 0), fake.expected(SHAPE, block, 0, attempt=7))
