"""A published cache goes back into an empty pool; whose arithmetic and whose weights made a cache is noticed."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pipeline.base.sums import SUMS
from pipeline.base.weights import read_state, write_state
from pipeline.cache.adopt import adopt, adopt_all
from pipeline.cache.layout import CacheConfig, Layout, committed
from pipeline.cache.publish import publish
from pipeline.cache.reader import open_cache
from pipeline.cache.teacher_answers_canary import canaries
from pipeline.cache.verify import verify
from pipeline.runtime.errors import IdentityError
from pipeline.runtime.work import Work
from pipeline.student.inputs import open_inputs
from pipeline.teacher import precompute
from pipeline.teacher.audit import audit
from stages.index import main as index
from tests.support import fake_teacher as fake
from tests.support.world import World, make_world, named, student, training

SHAPE = Layout(samples=90, classes=7, shard_size=32, block=16, group=3, codec="u8")
CACHE = CacheConfig(recipe="r", teacher="t", views=3, group=3, codec="f16")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), samples=160)  # two shards, five blocks


def clone(world: World, folder: Path, cache: Path | None = None) -> Path:
    """A second clone's ``work``: shards, teacher and what DVC pulled of caches; no pool."""
    for name in ("shards", "teachers"):
        shutil.copytree(world.root / name, folder / name)
    if cache is not None:
        shutil.copytree(cache, folder / "caches" / "c")
    return folder


def label(world: World, work: Path, views: int) -> precompute.Summary:
    made = world.labelled(CACHE.model_copy(update={"views": views}))
    pool, summary = precompute.label_share(made, Work(work), work / "pool", precompute.Share(), False, 0)
    publish(pool, work / "caches" / "c", views, CACHE.publish_max)
    return summary


@contextmanager
def forward_passes(of: str) -> Iterator[list[None]]:
    """A list that grows by one with every forward pass of a module of this class."""
    seen: list[None] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(None) if type(module).__name__ == of else None
    )
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def other_arithmetic() -> Iterator[None]:
    """Convolutions that add up in another order, as another CPU's do."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_more_views_in_a_second_clone_label_only_the_new_ones(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``index`` runs first and finds what was pulled; then DVC removes it, and the stage runs. Teacher calls are counted."""
    first = clone(world, tmp_path / "first")
    label(world, first, 3)
    second = clone(world, tmp_path / "second", first / "caches" / "c")
    monkeypatch.setenv("DISTIL_POOL", str(second / "pool"))
    found = CliRunner().invoke(index, ["--out", str(second / "index.tsv")])
    assert found.exit_code == 0 and "2 parts taken into the work pool" in found.output
    shutil.rmtree(second / "caches" / "c")
    blocks = len(world.shards.blocks)
    with forward_passes("ByobNet") as calls:
        summary = label(world, second, 6)
    assert summary.views == 3 * world.shards.samples
    assert len(calls) == 3 * blocks + 2  # the new views, one for the canary, one for what the codec loses
    with forward_passes("ByobNet") as calls:
        label(world, first, 6)
        label(world, second, 3)
        label(world, second, 6)
    assert len(calls) == 3 * blocks + 2  # the first clone's; the second one only publishes
    assert files(first / "caches" / "c") == files(second / "caches" / "c")


def test_a_pool_takes_what_it_lacks_and_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(fake.filled(tmp_path / "there", SHAPE, 6), tmp_path / "work" / "caches" / "c", 6, 10**9)
    pool = fake.filled(tmp_path / "pool", SHAPE, 3)
    shutil.rmtree(pool.path / "commits" / "0")  # as a pool that lost a group
    shutil.rmtree(pool.path / "hard" / "c" / "0")
    (tmp_path / "work" / "caches" / "none").mkdir()
    assert adopt_all(tmp_path / "work", tmp_path / "pool") == 6
    assert committed(pool) == set(SHAPE.parts(6))
    assert adopt_all(tmp_path / "work", tmp_path / "pool") == 0
    report = verify(pool.path)
    assert (report.whole, report.findings) == (6, ())
    for block in fake.blocks(SHAPE):
        assert fake.same(open_cache(pool.path, views=6).read(block, 4), fake.expected(SHAPE, block, 4))


def test_damaged_parts_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "work" / "caches" / "c"
    publish(fake.filled(tmp_path / "there", SHAPE, 3), out, 3, 10**9)
    damaged = out / "hard" / "c" / "0" / "1"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert adopt(out, tmp_path / "pool") == 2
    assert "this part is left out" in capsys.readouterr().out
    pool = next((tmp_path / "pool" / "caches").iterdir())
    assert verify(pool).findings == () and len(list((pool / "commits").glob("*/*"))) == 2
    (out / "zarr.json").write_text("{}")
    assert adopt_all(tmp_path / "work", tmp_path / "other") == 0
    assert "not taken into the work pool" in capsys.readouterr().out


def test_other_arithmetic_than_the_caches_is_said_once_and_is_no_identity(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = clone(world, tmp_path / "work")
    with other_arithmetic():
        label(world, work, 3)
    out = work / "caches" / "c"
    (made_with,) = canaries(out)
    assert json.loads((out / "canary.json").read_text()) == [made_with] and "canary.json" not in str(
        verify(out).findings
    )
    identity = open_cache(out).identity
    assert made_with["logits"] not in json.dumps(identity)

    def mixed() -> str:
        capsys.readouterr()
        open_inputs(named(world, training(world, 1), student("auto", "soft"), CACHE), Work(work))
        return capsys.readouterr().out

    said = mixed()
    assert said.count("differ in their last bits") == 1 and made_with["on"] in said
    audit(out, world.labelled(CACHE), Work(work), 1, 0, 0)
    assert capsys.readouterr().out.count("differ in their last bits") == 1
    summary = label(world, work, 6)  # the same cache goes on, which is said
    assert summary.views == 3 * world.shards.samples and open_cache(out).identity == identity
    assert capsys.readouterr().out.count("differ in their last bits") == 1 and len(canaries(out)) == 2
    with other_arithmetic():
        fresh = clone(world, tmp_path / "fresh")
        label(world, fresh, 3)
        shutil.rmtree(work / "caches" / "c")
        shutil.copytree(fresh / "caches" / "c", work / "caches" / "c")
        assert mixed() == ""
    (work / "caches" / "c" / "canary.json").unlink()  # of a time before canaries
    assert mixed() == ""


def test_another_teachers_whole_cache_is_refused_where_the_teacher_is_there(world: World, tmp_path: Path) -> None:
    work = clone(world, tmp_path / "work")
    label(world, work, 3)
    weights = work / "teachers" / "t" / "model.safetensors"

    def given() -> None:
        open_inputs(named(world, training(world, 1), student("cached", "hard"), CACHE), Work(work))

    given()
    state = read_state(weights)
    state["head.fc.bias"][0] += 1.0
    write_state(weights, state)
    (weights.parent / SUMS).unlink()
    with pytest.raises(IdentityError, match=r"caches/c.*\n.*teacher\.weights"):
        given()
    shutil.rmtree(work / "teachers")  # a training from a cache alone needs no teacher
    given()
