"""The teacher stage: any share, any order, killed and started again, it leaves the same bytes and redoes nothing."""

import contextlib
import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cache.identity import cache_identity
from pipeline.cache.layout import CacheConfig, Layout, committed, layout_of
from pipeline.cache.pool import open_pool
from pipeline.cache.reader import open_cache
from pipeline.cache.repair import collect
from pipeline.runtime.errors import RetryError, UsageError
from pipeline.runtime.machine import StopSignal, device
from pipeline.runtime.stage import stage
from pipeline.teacher import precompute
from pipeline.teacher.label import label_visits
from pipeline.teacher.precompute import Share, fill, select
from tests.support.processes import started
from tests.support.world import World, make_world, open_world

PARTS = {(g, s) for g in range(2) for s in range(3)}  # V = 6, G = 3, three shards


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def at(world: World, root: Path) -> World:
    """The same world with a pool of its own."""
    root.mkdir(exist_ok=True)
    for name in ("shards", "teachers"):
        (root / name).symlink_to(world.root / name)
    return replace(world, root=root)


def content(pool: Path) -> dict[str, bytes]:
    kept = (path for path in pool.rglob("*") if path.is_file() and path.name != "log.jsonl")
    return {str(path.relative_to(pool)): path.read_bytes() for path in kept}


def test_shares_in_any_order_and_twice_give_the_bytes_of_one_job(world: World, tmp_path: Path) -> None:
    one = at(world, tmp_path / "one").label("u8", 6)
    shared = at(world, tmp_path / "shared")
    for share in ("3/3", "1/3", "2/3", "1/3", "1/1"):
        many = shared.label("u8", 6, share)
    assert content(one.path) == content(many.path)


def test_raising_v_computes_only_the_new_groups_and_lowering_it_opens_the_same_cache(
    world: World, tmp_path: Path
) -> None:
    here = at(world, tmp_path / "grow")
    small = here.label("none", 3)
    before = {path: path.stat().st_mtime_ns for path in small.path.rglob("*/0/*") if path.is_file()}
    large = here.label("none", 6)
    assert large.path == small.path and committed(large) == PARTS
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert open_cache(large.path, views=3).missing(3) == []


def test_told_to_stop_it_stops_at_a_parts_boundary_with_whole_parts_only(world: World, tmp_path: Path) -> None:
    here = at(world, tmp_path / "stop")
    config = CacheConfig(recipe="r", teacher="t", views=6, group=3, codec="none")
    layout = layout_of(world.shards, config)
    identity = cache_identity(world.shards, world.recipe, layout, world.teacher.identity(), device())
    pool = open_pool(here.pool, identity)
    stop = StopSignal()
    os.kill(os.getpid(), signal.SIGUSR1)
    parts = select(layout, 6, Share())
    with pytest.raises(RetryError, match="stopped by SIGUSR1 after 0 whole parts"):
        fill(pool, parts, world.shards, world.recipe, world.teacher, 0, stop)
    assert committed(pool) == set()
    assert fill(pool, parts, world.shards, world.recipe, world.teacher, 0).parts == 6


def test_a_teacher_without_memory_keeps_its_whole_parts_and_names_block_and_group(world: World, tmp_path: Path) -> None:
    here, asked = at(world, tmp_path / "short"), list[int]()
    config = CacheConfig(recipe="r", teacher="t", views=6, group=3, codec="none")
    layout = layout_of(world.shards, config)
    identity = cache_identity(world.shards, world.recipe, layout, world.teacher.identity(), device())
    pool, parts = open_pool(here.pool, identity), select(layout, 6, Share())

    def greedy(*_: object) -> None:
        asked.append(1)
        if len(asked) == 20:  # a part of 128 samples asks 12 times
            torch.empty(1 << 60)

    hook = world.teacher.model.register_forward_hook(greedy)
    with pytest.raises(RetryError, match=r"out of memory .*\(block = 32, group = 3\)"):
        fill(pool, parts, world.shards, world.recipe, world.teacher, 0)
    hook.remove()
    kept = len(committed(pool))
    assert kept == 1 and fill(pool, parts, world.shards, world.recipe, world.teacher, 0).parts == 6 - kept


@pytest.mark.parametrize(("grace", "whole"), [(60.0, 1), (0.0, 0)])
def test_told_to_stop_it_ends_the_part_in_work_if_that_is_quick(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float, whole: int
) -> None:
    here = at(world, tmp_path)

    def label_and_signal(*arguments: Any) -> Any:
        for answered in label_visits(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            yield answered

    monkeypatch.setattr(precompute, "GRACE", grace)
    monkeypatch.setattr(precompute, "label_visits", label_and_signal)
    with pytest.raises(RetryError, match=f"stopped by SIGTERM after {whole} whole parts"):
        here.label("none", 6)
    monkeypatch.undo()
    assert len(committed(here.label("none", 6))) == 6


def label_six(root: Path) -> None:
    open_world(root).label("f16", 6)


def test_killed_at_any_moment_the_next_run_does_only_what_is_missing(world: World, tmp_path: Path) -> None:
    """Real processes and SIGKILL; bench/proofs/kills.py does this thousands of times with a fake teacher."""
    here = at(world, tmp_path / "kill")
    child = started(label_six, here.root)
    commits = here.pool / "caches"
    while not (there := list(commits.glob("*/commits/*/*.json"))) and child.is_alive():  # its first part, or its end
        time.sleep(0.005)
    assert there, "it ended before the first part"
    child.kill()
    child.join()
    there = set(commits.glob("*/commits/*/*.json"))
    stamps = {path: path.stat().st_mtime_ns for path in there}
    again = here.label("f16", 6)
    assert committed(again) == PARTS
    assert {path: path.stat().st_mtime_ns for path in there} == stamps
    collect(again.path, older_than=0.0)  # what the killed job left in staging; verify --gc
    assert content(again.path) == content(at(world, tmp_path / "whole").label("f16", 6).path)


def label_as_a_stage(root: Path) -> None:
    """Writes what it prints on standard error into ``root/said``."""
    with (root / "said").open("w") as said, contextlib.redirect_stderr(said):
        stage(lambda: open_world(root).label("none", 6, workers=2))()


def test_a_write_that_fails_ends_the_job_and_its_workers(world: World, tmp_path: Path) -> None:
    here = at(world, tmp_path / "broken")
    (here.label("none", 3).path / "hard/c/1").write_bytes(b"in the way of the second group")
    job = started(label_as_a_stage, here.root)
    job.join(600)  # it hung for ever
    assert job.exitcode == 2 and "hard/c/1" in (here.root / "said").read_text()


def test_an_output_that_would_be_refused_is_refused_before_the_work(world: World, tmp_path: Path) -> None:
    here = at(world, tmp_path / "fresh")
    here.work.cache("c").mkdir(parents=True)
    (here.work.cache("c") / "thesis.tex").write_text("x")
    config = CacheConfig(recipe="r", teacher="t", views=3, group=3, codec="none")
    with pytest.raises(UsageError):
        precompute.label_share(here.labelled(config), here.work, here.pool, Share(), False, 0)
    assert not list(here.pool.glob("caches/*/commits/*/*.json"))


def test_shares_cover_every_part_once_and_ranks_split_their_share() -> None:
    layout = Layout(349, 10, 128, 32, 3, "none")
    parts = select(layout, 6, Share())
    assert parts == sorted(PARTS)
    ranks = [select(layout, 6, Share.parse(f"{i}/2").of_rank(rank, 2)) for i in (1, 2) for rank in (0, 1)]
    assert sorted(part for share in ranks for part in share) == parts
    assert select(layout, 6, Share(shards=range(1, 2), view_range=range(3, 6))) == [(1, 1)]
    for text in ("0/2", "3/2", "1", "²/2", "1/-2"):
        with pytest.raises(UsageError, match="--share: expected i/n"):
            Share.parse(text)
    with pytest.raises(UsageError, match="whole view groups, multiples of G = 3, found 0:4"):
        select(layout, 6, Share(view_range=range(4)))


def test_under_torchrun_each_rank_labels_its_share(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = at(world, tmp_path / "ranks")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert committed(here.label("none", 3)) == {(0, 1)}
    monkeypatch.setenv("RANK", "0")
    assert committed(here.label("none", 3)) == {(0, s) for s in range(3)}


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected i/n with 1 <= i <= n"):
        Share.parse(text)


def test_what_the_codec_loses_of_this_teacher_is_said_and_kept_in_the_log(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = at(world, tmp_path / "fidelity")
    config = CacheConfig(recipe="r", teacher="t", views=3, group=3, codec="top4")
    made = replace(here.labelled(config), temperatures=(1.0, 3.0))
    pool, _ = precompute.label_share(made, here.work, here.pool, Share(), False, 0)
    said = capsys.readouterr().out
    events = [json.loads(line) for line in (pool.path / "log.jsonl").read_text().splitlines()]
    found = [event for event in events if event["event"] == "fidelity"]
    assert [(event["codec"], event["rows"], list(event["kl"])) for event in found] == [
        ("top4", 32, ["1", "3"]),
        ("top8", 32, ["1", "3"]),
    ]
    for name, event in zip(("codec top4", "next larger codec, top8"), found):
        shown = f"{event['kl']['1']:.2g} at tau 1, {event['kl']['3']:.2g} at tau 3"
        assert re.search(f"{name}: [0-9]+ bytes per view, .* in all; {re.escape(shown)}", said)
    precompute.label_share(made, here.work, here.pool, Share(), False, 0)
    assert "nats" not in capsys.readouterr().out  # nothing is labelled, so nothing is measured
