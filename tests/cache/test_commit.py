import shutil

import pytest

from pipeline.cache.layout import Layout, committed
from pipeline.cache.pool import open_pool
from pipeline.cache.repair import collect
from pipeline.cache.verify import verify
from pipeline.runtime.errors import IntegrityError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")


@pytest.mark.parametrize("step", fake.STEPS)
def test_a_kill_at_any_step_leaves_a_part_whole_or_absent_and_the_next_job_finishes(tmp_path, step):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    fake.stop_at(pool, (0, 2), step)
    linked = fake.STEPS.index(step) >= fake.STEPS.index("linked")
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
    assert fake.attempts_of(pool, (0, 0), range(4)) == {1}


def test_a_loser_finishes_the_part_of_a_winner_that_died_after_its_link(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    fake.stop_at(pool, (0, 0), "rolled hard", attempt=1)
    assert committed(pool) == set()
    assert not fake.commit(pool, (0, 0), attempt=2)
    assert committed(pool) == {(0, 0)} and fake.attempts_of(pool, (0, 0), range(4)) == {1}


def test_a_loser_with_equal_rows_heals_a_part_whose_staging_was_lost(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    fake.stop_at(pool, (0, 0), "linked")
    shutil.rmtree(pool.path / "staging")
    with pytest.raises(IntegrityError, match=r"no file; repair"):
        fake.commit(pool, (0, 0), attempt=5)
    assert not fake.commit(pool, (0, 0)) and verify(pool.path).whole == 1
