"""A cache of other shards finds the parts of those that are equal, at other places too, with the bytes of a fresh labelling."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache import graft
from pipeline.cache.layout import CacheConfig, NamedCache, Store
from pipeline.cache.verify import verify
from pipeline.data.listing import Split
from pipeline.data.pack import order, pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, find_root, read_splits, scan
from pipeline.runtime.config import validate
from pipeline.teacher import precompute
from tests.support.world import World, make_world

WHOLE = precompute.Share.parse("1/1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), samples=90)


def shards_of(world: World, ranks: range, folder: Path) -> World:
    """``world`` with the training digits of these places in the order of packing, in shards of 128."""
    data = validate(DataConfig, {"source": "digits", "shard_size": 128, "block": 32, "seed": 0}, "data")
    root = find_root(data.source, {})
    classes, splits = read_splits(data, root, scan(data, root))
    chosen = order(splits["train"].entries, data.seed)[ranks.start : ranks.stop]
    pack_splits(data, classes, {"train": Split(chosen), "val": splits["val"]}, folder / "shards", 1)
    return replace(world, shards=Shards.open(folder / "shards" / "train"))


def label(world: World, pool: Path, codec: str, views: int = 3, **fields: object) -> tuple[Store, int]:
    """The cache in ``pool``, and how many parts were labelled."""
    config = CacheConfig(recipe="r", teacher="t", views=views, group=3, codec=codec, **fields)
    made = precompute.LabelledCache(NamedCache("c", config, world.recipe), world.config)
    work = replace(world.work, shards=world.shards.root.parent)
    store, summary = precompute.label_share(made, work, pool, WHOLE, True, 0)
    return store, summary.parts


def contents(store: Store) -> dict[str, bytes]:
    paths = [
        path for name in (*store.layout.arrays, "commits") for path in (store.path / name).rglob("*") if path.is_file()
    ]
    return {str(path.relative_to(store.path)): path.read_bytes() for path in paths}


def test_a_change_labels_only_the_shards_that_it_makes(world: World, tmp_path: Path) -> None:
    before = shards_of(world, range(349), tmp_path / "before")
    assert label(before, tmp_path / "pool", "top4")[1] == 3
    for ranks, labelled in ((range(128, 349), 0), (range(128, 400), 2)):
        now = shards_of(world, ranks, tmp_path / f"{ranks.start}-{ranks.stop}")
        grown, parts = label(now, tmp_path / "pool", "top4")
        fresh, _ = label(now, tmp_path / f"fresh {ranks.start}-{ranks.stop}", "top4")
        assert parts == labelled and contents(grown) == contents(fresh)
        assert not verify(grown.path).findings


def test_other_views_teachers_and_codecs_are_no_relatives_and_damage_is_labelled_anew(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = (shards_of(world, ranks, tmp_path / str(ranks.stop)) for ranks in (range(256), range(300)))
    store, _ = label(before, tmp_path / "pool", "u8")
    assert label(after, tmp_path / "pool", "f16")[1] == 3
    other = replace(after, recipe=after.recipe.model_copy(update={"flip": 0.25}))
    assert label(other, tmp_path / "pool", "u8")[1] == 3
    path = store.file_path("hard", (0, 1))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    record = store.record_path((0, 0))
    record.unlink()
    record.symlink_to(record.name)
    grown, parts = label(after, tmp_path / "pool", "u8")
    said = capsys.readouterr().out
    assert parts == 3 and f"warning: {path}: expected" in said and "this part is left out" in said
    assert "part (0, 0) can't be read: Too many levels of symbolic links" in said
    assert contents(grown) == contents(label(after, tmp_path / "fresh", "u8")[0])


def test_a_part_that_goes_while_it_is_read_and_a_broken_cache_are_passed_over(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = (shards_of(world, ranks, tmp_path / str(ranks.stop)) for ranks in (range(128), range(150)))
    store, _ = label(before, tmp_path / "pool", "none")
    (tmp_path / "pool/caches/broken/identity.json").mkdir(parents=True)
    real = graft.open_arrays

    def after_a_removal(*args: Any, **kwargs: Any) -> dict[str, Any]:
        store.file_path("hard", (0, 0)).unlink()  # by another process, between the look and the read
        return real(*args, **kwargs)

    monkeypatch.setattr(graft, "open_arrays", after_a_removal)
    assert label(after, tmp_path / "pool", "none")[1] == 2
    assert "was removed while it was read" in capsys.readouterr().out
