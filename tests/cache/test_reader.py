import dataclasses
import hashlib
import json
import multiprocessing
import pickle
import re
import shutil

import google_crc32c
import numpy as np
import pytest
import zarr

from pipeline.base.files import digest
from pipeline.cache.arrays import metadata
from pipeline.cache.codec import packed_width, unpack
from pipeline.cache.layout import Layout, file_key
from pipeline.cache.pool import open_pool
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.data.shards import Block
from pipeline.runtime.errors import IdentityError, IntegrityError, UsageError
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=150, classes=10, shard_size=64, block=16, group=3, codec="u8")


@pytest.fixture(scope="module", params=["none", "u8", "f16", "top4"])
def shape(request):
    return dataclasses.replace(SHAPE, codec=request.param)


@pytest.fixture(scope="module")
def out(shape, tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    publish(fake.filled(root, shape, 6), root / "out", 6, 10**9)
    return root / "out"


def test_every_block_and_view_reads_back_as_the_live_teacher_through_the_codec(out, shape):
    cache = open_cache(out, fake.identity(shape))
    cache = pickle.loads(pickle.dumps(cache))
    for block in fake.blocks(shape):
        three = cache.read(block, 2, 3)  # crosses from one view group into the next
        for index, view in enumerate((2, 3, 4)):
            expected = fake.expected(shape, block, view)
            assert fake.same(cache.read(block, view), expected)
            assert np.array_equal(three.hard[index], expected.hard[0])
            assert expected.logits is None or np.array_equal(three.logits[index], expected.logits[0])
            number = block.first // shape.block
            g = view // shape.group
            assert cache.pixel_digest(block, view) == fake.pixels(shape, (g, block.shard))[view % shape.group][number]


@pytest.mark.parametrize(
    ("codec", "identity", "documents"),
    [
        ("none", "cd17fb89a3ea", "227b0fe513f7"),
        ("u8", "bc25542dbad4", "049873c957e5"),
        ("f16", "a174c8f4ace5", "a025b7777e7d"),
    ],
)
def test_caches_of_before_keep_their_identity_and_their_metadata(codec, identity, documents):
    old = dataclasses.replace(SHAPE, codec=codec)
    assert digest(fake.identity(old))[:12] == identity
    written = b"".join(metadata(fake.identity(old), old, 6).values())
    assert hashlib.sha256(written).hexdigest()[:12] == documents


def test_rows_that_no_teacher_gave_are_damage_even_under_a_checksum_that_is_right(tmp_path):
    top = dataclasses.replace(SHAPE, codec="top4")
    pool = fake.filled(tmp_path, top, 3)
    path = pool.path / file_key("logits", (0, 0))
    content = bytearray(path.read_bytes())
    chunk = packed_width("top4", 10) * top.block + 4
    content[: chunk - 4] = bytes(chunk - 4)  # the first block of some view: no class named in any row
    content[chunk - 4 : chunk] = google_crc32c.value(bytes(chunk - 4)).to_bytes(4, "little")
    path.write_bytes(content)
    cache, refused = open_cache(pool.path), []
    for block in fake.blocks(top):
        for view in range(3):
            try:
                assert fake.same(cache.read(block, view), fake.expected(top, block, view))
            except IntegrityError as error:
                refused.append(str(error))
    assert len(refused) == 1 and re.search(
        r"c\.0\.0\.0: damaged in views .*: stored logits: a row does not name 7", refused[0]
    )


@pytest.mark.filterwarnings("error")
def test_plain_zarr_reads_a_published_cache_without_warnings(out, shape):
    group = zarr.open_group(out, mode="r")
    assert sorted(name for name, _ in group.members()) == sorted(shape.arrays)
    assert group["hard"].shape == (6, 150) and group["hard"].dtype == np.uint16
    block = fake.blocks(shape)[5]
    rows = slice(block.row, block.row + block.samples)
    assert np.array_equal(group["hard"][4, rows], fake.expected(shape, block, 4).hard[0])
    if shape.codec != "none":
        stored = group["logits"][4:5, rows]
        assert np.array_equal(unpack(shape.codec, stored, shape.classes), fake.expected(shape, block, 4).logits)


def _read_in_child(cache, block, queue):
    queue.put(cache.read(block, 1).hard)


def test_a_forked_process_can_read_a_cache_that_its_parent_has_read(out, shape):
    cache, block = open_cache(out), fake.blocks(shape)[-1]
    cache.read(block, 0)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_read_in_child, args=(cache, block, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=600), fake.expected(shape, block, 1).hard)
    child.join()


def test_opening_parses_no_record(out, shape, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    for path in (copy / "commits").rglob("*.json"):
        path.write_bytes(b"not a record")
    cache = open_cache(copy)
    with pytest.raises(IntegrityError, match="damaged commit record"):
        cache.pixel_digest(fake.blocks(shape)[0], 0)


def test_another_identity_or_more_views_than_there_are_is_refused(out, shape):
    recipe = {"seed": 1, "size": 8, "crop": "random_resized", "flip": 0.5}
    with pytest.raises(IdentityError, match=r"recipe.seed: expected 1, found 0"):
        open_cache(out, fake.identity(shape, recipe=recipe))
    with pytest.raises(UsageError, match="holds V = 6 views, asked for 9"):
        open_cache(out, views=9)
    with pytest.raises(UsageError, match="multiple of group"):
        open_cache(out, views=4)
    assert open_cache(out, views=3).views == 3
    with pytest.raises(UsageError, match="no teacher cache"):
        open_cache(out / "commits")


def test_blocks_and_views_that_are_not_the_caches_are_refused(out, shape):
    cache, good = open_cache(out), fake.blocks(shape)[0]
    for changes in ({"first": 8}, {"samples": 15}, {"shard": 3}, {"first": 64}):
        with pytest.raises(UsageError, match="no block of the cache's layout"):
            cache.read(dataclasses.replace(good, **changes), 0)
    for view, views in ((6, 1), (5, 2), (-1, 1), (0, 0)):
        with pytest.raises(UsageError, match="holds views"):
            cache.read(good, view, views)


def test_a_cache_in_a_pool_may_lack_parts_and_says_which(tmp_path):
    pool = open_pool(tmp_path, fake.identity(SHAPE))
    assert open_cache(pool.path).missing(3) == [(0, 0), (0, 1), (0, 2)]
    for part in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        fake.commit(pool, part)
    cache = open_cache(pool.path, fake.identity(SHAPE))
    assert cache.views == 6
    assert cache.missing(3) == cache.missing(6) == [(0, 2)]
    assert cache.missing(7) == [(0, 2), (2, 0), (2, 1), (2, 2)]
    absent = next(block for block in fake.blocks(SHAPE) if block.shard == 2)
    assert not cache.has(absent, 2) and cache.has(absent, 3) and not cache.has(absent, 6)
    with pytest.raises(UsageError, match=r"part \(0, 2\) is not committed"):
        cache.read(absent, 2)


def test_a_committed_part_that_is_not_in_place_yet_is_missing_and_one_that_lost_its_file_is_damaged(tmp_path):
    pool = fake.filled(tmp_path, SHAPE, 3)
    block = fake.blocks(SHAPE)[0]
    staged = pool.path / "staging" / "0.0.x"
    staged.mkdir()
    (pool.path / "hard/c/0/0").rename(staged / "hard")
    shutil.copy(pool.path / "commits/0/0.json", staged / "record.json")
    assert not open_cache(pool.path).has(block, 0)
    open_pool(tmp_path, fake.identity(SHAPE))
    assert fake.same(open_cache(pool.path).read(block, 0), fake.expected(SHAPE, block, 0))
    shutil.rmtree(staged)
    (pool.path / "hard/c/0/0").unlink()
    cache = open_cache(pool.path)
    assert cache.has(block, 0)
    with pytest.raises(IntegrityError, match=r"hard/c/0/0: expected .* bytes, found no file"):
        cache.read(block, 0)


@pytest.mark.parametrize("edit", ["shape", "data_type", "space", "views", "gone"])
def test_metadata_that_is_not_what_identity_and_v_make_it_is_refused(out, tmp_path, edit):
    copy = shutil.copytree(out, tmp_path / "copy")
    path = copy / "hard" / "zarr.json"
    document = json.loads(path.read_bytes())
    if edit == "shape":
        document["shape"][0] += 3
    if edit == "data_type":
        document["data_type"] = "int16"
    path.write_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    if edit == "space":
        path.write_bytes(path.read_bytes() + b" ")
    if edit == "views":
        group = copy / "zarr.json"
        group.write_bytes(group.read_bytes().replace(b'"views":6', b'"views":3'))
    if edit == "gone":
        path.unlink()
    with pytest.raises(IntegrityError, match=r"zarr.json: .*repair"):
        open_cache(copy)


def test_views_of_two_teachers_on_one_recipe_match_block_by_block(tmp_path):
    one = fake.filled(tmp_path, SHAPE, 3)
    other = fake.filled(tmp_path, SHAPE, 3, {"teacher": {"arch": "another"}})
    first, second = open_cache(one.path), open_cache(other.path)
    for block in fake.blocks(SHAPE):
        assert first.pixel_digest(block, 1) == second.pixel_digest(block, 1)


def test_reading_a_block_of_another_data_set_is_impossible_by_type():
    assert [field.name for field in dataclasses.fields(Block)] == ["index", "shard", "first", "row", "samples"]
