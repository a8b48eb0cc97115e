import dataclasses
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.arrays import PartRows
from pipeline.cache.codec import hard_labels, pack
from pipeline.cache.layout import Layout, committed, is_committed, read_identity
from pipeline.cache.pool import commit_part, open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.runtime.errors import IdentityError, IntegrityError, RetryError, UsageError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="none")


def test_jobs_that_open_one_identity_share_one_directory(tmp_path):
    first = open_pool(tmp_path, fake.identity(SHAPE))
    again = open_pool(tmp_path, fake.identity(SHAPE))
    assert first == again
    other = open_pool(tmp_path, fake.identity(SHAPE, views_version=2))
    assert other.path != first.path and other.path.parent == first.path.parent
    assert read_identity(first.path) == json.loads(json.dumps(fake.identity(SHAPE)))


def test_growth_computes_only_new_groups_and_lowering_v_opens_the_same_cache(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 3)
    todo = set(SHAPE.parts(9)) - committed(open_pool(tmp_path, fake.identity(SHAPE)))
    assert todo == {(g, s) for g in (1, 2) for s in range(3)}
    for part in todo:
        assert not is_committed(pool, part)
        assert fake.commit(pool, part) and is_committed(pool, part)
    for name, views in (("nine", 9), ("three", 3)):
        publish(pool, tmp_path / name, views, 10**9)
        assert len(list((tmp_path / name / "commits").glob("*/*.json"))) == views
    few, many = (open_cache(tmp_path / name, fake.identity(SHAPE)) for name in ("three", "nine"))
    for block in fake.blocks(SHAPE):
        assert fake.same(few.read(block, 1, 2), many.read(block, 1, 2))
    assert (few.views, many.views) == (3, 9)
    with pytest.raises(UsageError, match=r"V = 4 .* multiple of group G = 3.*V = 3"):
        publish(pool, tmp_path / "four", 4, 10**9)


def test_a_cache_that_differs_only_in_what_the_machine_decides_stops_with_both_values(tmp_path):
    open_pool(tmp_path, fake.identity(SHAPE))
    with pytest.raises(IdentityError) as refusal:
        open_pool(tmp_path, fake.identity(SHAPE, canary="decaf", engine="fast"))
    for text in (
        "canary: expected 'decaf', found 'c0ffee'",
        "engine: expected 'fast', found 'pil'",
        "DISTIL_ENGINE=pil",
        "--new-cache",
    ):
        assert text in str(refusal.value)
    assert len(list((tmp_path / "caches").iterdir())) == 1
    fresh = open_pool(tmp_path, fake.identity(SHAPE, canary="decaf"), new_cache=True)
    assert open_pool(tmp_path, fake.identity(SHAPE, canary="decaf")) == fresh
    open_pool(tmp_path, fake.identity(SHAPE, canary="tea", views_version=2))  # differs in more: a new cache


def test_wrong_shapes_types_and_parts_are_refused_before_anything_is_staged(tmp_path):
    shape = dataclasses.replace(SHAPE, codec="u8")
    pool = open_pool(tmp_path, fake.identity(shape))
    rows = fake.logits(shape, (0, 2))
    hard, stored, pixels = hard_labels(rows), pack("u8", rows), fake.pixels(shape, (0, 2))
    for part, h, e, p in (
        ((0, 3), hard, stored, pixels),
        ((0, 0), hard, stored, pixels),
        ((0, 2), hard.astype(np.int64), stored, pixels),
        ((0, 2), hard, None, pixels),
        ((0, 2), hard, stored[..., :-1], pixels),
        ((0, 2), hard, stored, pixels[:-1]),
    ):
        with pytest.raises(UsageError, match="expected"):
            commit_part(pool, PartRows(part, h, e, p, "source"))
    assert list((pool.path / "staging").iterdir()) == [] and committed(pool) == set()


def test_a_file_system_without_hard_links_is_refused_at_opening(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UsageError, match=r"no hard links.*DISTIL_POOL"):
        open_pool(tmp_path, fake.identity(SHAPE))


def test_a_full_disk_gives_75_and_the_space_back_and_the_next_run_goes_on(tmp_path, monkeypatch):
    pool = open_pool(tmp_path, fake.identity(SHAPE))

    def full(step):
        if step == "wrote hard":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RetryError, match=r"no space left.*same command"):
        fake.commit(pool, (0, 0), reach=full)
    assert list((pool.path / "staging").iterdir()) == [] and committed(pool) == set()

    def full_after_link(step):
        if step == "linked":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RetryError):
        fake.commit(pool, (0, 0), reach=full_after_link)
    assert committed(pool) == set()  # has a record, is not in place: missing, not damaged
    assert committed(open_pool(tmp_path, fake.identity(SHAPE))) == {(0, 0)}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_a_pool_that_may_not_be_written_is_usage_and_can_still_be_read():
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        pool = fake.filled(root, SHAPE, 3)
        os.seteuid(65534)
        try:
            with pytest.raises(UsageError, match=r"can't be written.*DISTIL_POOL"):
                open_pool(root, fake.identity(SHAPE))
            with pytest.raises(UsageError, match="can't be written"):
                fake.commit(pool, (1, 0))
            cache = open_cache(pool.path, fake.identity(SHAPE))
            assert cache.read(fake.blocks(SHAPE)[0], 0).hard.shape == (1, 16)
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(root)


def test_a_damaged_identity_file_is_named_with_its_repair(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 3)
    path = pool.path / "identity.json"
    path.write_bytes(path.read_bytes().replace(b"c0ffee", b"c0ffea"))
    with pytest.raises(IntegrityError, match=r"identity.json: damaged.*remove this one file"):
        open_cache(pool.path)
    path.unlink()
    assert committed(open_pool(tmp_path, fake.identity(SHAPE))) == set(SHAPE.parts(3))


def test_one_step_name_for_each_call_of_the_hook(tmp_path):
    shape = dataclasses.replace(SHAPE, codec="f16")
    pool = open_pool(tmp_path, fake.identity(shape))
    seen = []
    fake.commit(pool, (0, 0), reach=seen.append)
    assert tuple(seen) == fake.STEPS
