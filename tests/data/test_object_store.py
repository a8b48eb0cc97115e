"""Shards in an object store give the samples of those on a disk, in the process and in forked ones, or a sentence."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("botocore", reason="needs the group s3; .ci/run installs it")
pytest.importorskip("flask", reason="moto's server needs it")

import numpy as np

from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.data import object_store
from pipeline.data.object_store import local_copy
from pipeline.data.shards import Shards
from pipeline.runtime.errors import IntegrityError, PipelineError, RetryError, UsageError
from pipeline.views.choose import Visit
from pipeline.views.workers import read_visits
from tests.support.store import BUCKET, Network, network
from tests.support.world import World, make_world

URL = f"s3://{BUCKET}/packed"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, World]]:
    world = make_world(tmp_path_factory.mktemp("world"))
    with network() as made:
        object_store._client.cache_clear()
        client = object_store._client(os.getpid())
        client.create_bucket(Bucket=BUCKET)
        made.put(client, world.shards.root.parent, "packed")
        yield made, world
    object_store._client.cache_clear()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(object_store, "_DELAYS", (0.0, 0.0))
    monkeypatch.setenv("DISTIL_POOL", str(tmp_path / "pool"))


def opened(split: str = "train") -> Shards:
    folder = local_copy(URL, "--shards")
    assert folder is not None
    return Shards.open(folder / split)


def test_samples_and_views_are_those_of_the_disk_in_this_process_and_then_in_two_others(
    store: tuple[Network, World],
) -> None:
    _, world = store
    remote, local = opened(), world.shards
    assert remote.hashes == local.hashes and remote.manifest_hash == local.manifest_hash
    for block in local.blocks:
        assert remote.read(block) == local.read(block)
    visits = [Visit(block.index, 0, 3, 0) for block in local.blocks]
    pairs = zip(*(read_visits(of, world.recipe, visits, 3, 2) for of in (remote, local)), strict=True)
    assert all(here.digests == there.digests for here, there in pairs)
    assert local_copy(URL, "--shards") == remote.root.parent  # nothing is fetched again


@pytest.mark.parametrize("fault", ["busy", "cut"])
def test_a_request_that_fails_is_tried_again_and_then_ends_with_75(
    store: tuple[Network, World], fault: str, capsys: pytest.CaptureFixture
) -> None:
    made, world = store
    remote, block = opened(), world.shards.blocks[0]
    made.fault, made.times = fault, 2
    assert remote.read(block) == world.shards.read(block)
    assert capsys.readouterr().out.count("again in 0 s") == 2 and made.times == 0
    made.times = 3
    with pytest.raises(RetryError, match="3 times; nothing is lost: run the same command again"):
        remote.read(block)


def test_an_object_that_is_another_one_or_gone_is_refused(store: tuple[Network, World]) -> None:
    _, world = store
    client, remote, block = object_store._client(os.getpid()), opened(), world.shards.blocks[0]
    name, content = "packed/train/000000.tar", (world.shards.root / "000000.tar").read_bytes()
    changed = content[:600] + bytes([content[600] ^ 1]) + content[601:]
    try:
        others = {changed: "its bytes have changed", content + b"\0": "the manifest asks for", b"": "InvalidRange"}
        for other, told in others.items():
            client.put_object(Bucket=BUCKET, Key=name, Body=other)
            with pytest.raises(IntegrityError, match=told):
                remote.read(block)
        client.delete_object(Bucket=BUCKET, Key=name)
        with pytest.raises(IntegrityError, match="NoSuchKey"):
            remote.read(block)
        manifest = (world.shards.root / "manifest.json").read_bytes()
        client.put_object(Bucket=BUCKET, Key="packed/train/manifest.json", Body=manifest + b"\n")
        with pytest.raises(RetryError, match=r"s3://images/packed/train: removed or replaced"):
            remote.read(block)
        client.put_object(Bucket=BUCKET, Key="packed/train/manifest.json", Body=manifest)
    finally:
        client.put_object(Bucket=BUCKET, Key=name, Body=content)
    assert remote.read(block) == world.shards.read(block)


def test_a_published_cache_is_read_by_ranges_and_proven(store: tuple[Network, World], tmp_path: Path) -> None:
    made, world = store
    publish(world.label("top4", 6), tmp_path / "caches/c", 6, 10**9)
    client = object_store._client(os.getpid())
    made.put(client, tmp_path / "caches", "caches")
    folder = local_copy(f"s3://{BUCKET}/caches", "--caches")
    assert folder is not None and not any((folder / "c/logits/c.0.0.0").read_bytes())
    here, there = open_cache(tmp_path / "caches/c"), open_cache(folder / "c")
    for block in world.shards.blocks:
        for first in (0, 3):
            a, b = here.read(block, first, 3), there.read(block, first, 3)
            assert np.array_equal(a.hard, b.hard) and np.array_equal(a.logits, b.logits)
            assert here.pixel_digest(block, first) == there.pixel_digest(block, first)
    content = bytearray((tmp_path / "caches/c/logits/c.0.0.0").read_bytes())
    content[len(content) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key="caches/c/logits/c.0.0.0", Body=bytes(content))
    with pytest.raises(IntegrityError):
        [there.read(block, 0, 3) for block in world.shards.blocks]


def test_indices_that_changed_are_fetched_again(store: tuple[Network, World]) -> None:
    _, world = store
    client, before = object_store._client(os.getpid()), opened()
    manifest = json.loads((world.val.root / "manifest.json").read_bytes())
    other = (json.dumps(manifest | {"quarantined": []}, indent=2) + "\n").encode()
    client.put_object(Bucket=BUCKET, Key="packed/val/manifest.json", Body=other)
    assert local_copy(URL, "--shards") != before.root.parent
    client.put_object(
        Bucket=BUCKET, Key="packed/val/manifest.json", Body=(world.val.root / "manifest.json").read_bytes()
    )
    assert local_copy(URL, "--shards") == before.root.parent


@pytest.mark.parametrize(
    ("address", "variables", "kind", "told"),
    [
        ("https://host/packed", {}, UsageError, "expected s3://bucket/prefix"),
        (f"s3://{BUCKET}/nothing", {}, UsageError, "no shards and no caches there"),
        ("s3://nobody/packed", {}, UsageError, "NoSuchBucket"),
        (URL, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, UsageError, "no credentials; set AWS_PROFILE"),
        (URL, {"AWS_PROFILE": "nobody"}, UsageError, "S3: The config profile"),
        (URL, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, RetryError, "Could not connect"),
        (URL, {"AWS_ENDPOINT_URL": "nonsense"}, UsageError, "S3: Invalid endpoint: nonsense"),
    ],
)
def test_an_address_that_cannot_be_read_is_a_sentence(
    store: tuple[Network, World],
    address: str,
    variables: dict[str, str],
    kind: type[PipelineError],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    object_store._client.cache_clear()
    with pytest.raises(kind, match=told):
        local_copy(address, "--shards")
    object_store._client.cache_clear()
