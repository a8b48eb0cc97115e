import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.proofs import kills
from pipeline.cache import commit
from pipeline.cache.layout import Layout, Store, committed, record_key
from pipeline.cache.pool import open_pool
from pipeline.cache.records import parse_record, row_digest
from pipeline.cache.repair import collect
from pipeline.cache.verify import verify
from pipeline.runtime.errors import IntegrityError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")


class Stopped(BaseException):
    """Stands for SIGKILL inside one process: nothing is cleaned up after it."""


def stop_at(pool, part, step, attempt=0):
    """Leaves on disk what a kill at ``step`` leaves."""
    snapshot = pool.path.parent / "snapshot"

    def reach(now):
        if now == step:
            shutil.copytree(pool.path, snapshot)
            raise Stopped

    with pytest.raises(Stopped):
        fake.commit(pool, part, attempt, reach)
    shutil.rmtree(pool.path)
    snapshot.rename(pool.path)


@pytest.mark.parametrize("step", commit.STEPS)
def test_a_kill_at_any_step_leaves_a_part_whole_or_absent_and_the_next_job_finishes(tmp_path, step):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    stop_at(pool, (0, 2), step)
    linked = commit.STEPS.index(step) >= commit.STEPS.index("linked")
    assert not verify(pool.path).damaged
    again = open_pool(tmp_path, fake.identity(SHAPE))
    assert committed(again) == ({(0, 2)} if linked else set())
    assert fake.commit(again, (0, 2)) == (not linked)
    report = verify(pool.path)
    assert (report.whole, report.findings) == (1, ())
    collect(pool.path, older_than=0)
    assert list((pool.path / "staging").iterdir()) == []


def test_of_two_attempts_the_linked_one_wins_whole_and_the_loser_leaves_nothing(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))

    def other_job_first(step):
        if step == "wrote record":
            assert fake.commit(pool, (0, 0), attempt=1)

    assert not fake.commit(pool, (0, 0), attempt=2, reach=other_job_first)
    assert verify(pool.path).whole == 1 and list((pool.path / "staging").iterdir()) == []
    assert kills.attempts_of(pool, (0, 0), range(4)) == {1}


def test_a_loser_finishes_the_part_of_a_winner_that_died_after_its_link(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    stop_at(pool, (0, 0), "rolled hard", attempt=1)
    assert committed(pool) == set()
    assert not fake.commit(pool, (0, 0), attempt=2)
    assert committed(pool) == {(0, 0)} and kills.attempts_of(pool, (0, 0), range(4)) == {1}


def test_a_loser_with_equal_rows_heals_a_part_whose_staging_was_lost(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    stop_at(pool, (0, 0), "linked")
    shutil.rmtree(pool.path / "staging")
    with pytest.raises(IntegrityError, match=r"no file; repair"):
        fake.commit(pool, (0, 0), attempt=5)
    assert not fake.commit(pool, (0, 0)) and verify(pool.path).whole == 1


def test_garbage_collection_keeps_live_young_and_committed_staging(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))

    def collect_now(step):
        if step == "wrote record":
            assert collect(pool.path, older_than=0).removed == ()

    assert fake.commit(pool, (0, 0), reach=collect_now)
    stop_at(pool, (0, 1), "linked")
    stop_at(pool, (0, 2), "wrote logits")
    assert collect(pool.path, older_than=60).removed == ()
    garbage = collect(pool.path, older_than=0)
    assert len(garbage.removed) == 2 and garbage.bytes > 0
    assert committed(pool) == {(0, 0), (0, 1)} and not verify(pool.path).findings


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


def test_sigkills_lose_mix_and_tear_nothing(tmp_path):
    result = kills.run(tmp_path, kills=40, seed=0)
    assert result.kills >= 40 and result.faults == []
    assert len([step for step, count in result.at_step.items() if count]) >= 5
