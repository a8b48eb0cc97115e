"""Packing: the same bytes every time, every file accounted for, and nothing half-written is taken for whole."""

import dataclasses
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import webdataset
from click.testing import CliRunner

from pipeline.base.files import sha256_file
from pipeline.data.images import Undecodable, decode_image
from pipeline.data.listing import Entry, Split
from pipeline.data.pack import order, pack_splits, read_entry
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.runtime.errors import IntegrityError, UsageError
from stages import index, shard
from tests.support.inputs import entries
from tests.support.photos import make_photo_folder

CONFIG = DataConfig(source="folder", shard_size=8, block=4, seed=5)


def broken(entry: Entry) -> Entry:
    return Entry(entry.path, entry.key, entry.label, entry.kind, 4, data=b"junk")


def hashes(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def keys(root: Path) -> list[str]:
    shards = Shards.open(root)
    return [sample.key for block in shards.blocks for sample in shards.read(block)]


def two(count: int) -> dict[str, Split]:
    return {"train": Split(entries(count)), "val": Split(entries(5, "v"))}


def test_two_runs_give_identical_bytes_whatever_the_order_of_the_listing(tmp_path: Path) -> None:
    pack_splits(CONFIG, ("a", "b", "c"), two(21), tmp_path / "one", 1)
    pack_splits(CONFIG, ("a", "b", "c"), {**two(21), "train": Split(entries(21)[::-1])}, tmp_path / "two", 1)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert len(hashes(tmp_path / "one")) == 11  # 3 + 1 tars, as many indices, 2 manifests, their sums


def test_many_processes_give_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_splits(CONFIG, ("a", "b", "c"), two(21), tmp_path / "one", 1)
    monkeypatch.setattr("pipeline.data.pack._INLINE", 0)
    pack_splits(CONFIG, ("a", "b", "c"), two(21), tmp_path / "two", 2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_training_samples_are_shuffled_by_key_and_validation_keeps_its_order(tmp_path: Path) -> None:
    pack_splits(CONFIG, ("a", "b", "c"), two(21), tmp_path / "out", 1)
    assert keys(tmp_path / "out" / "val") == [f"v/{row}" for row in range(5)]
    train = keys(tmp_path / "out" / "train")
    assert sorted(train) == sorted(f"k/{row}" for row in range(21)) and train != [f"k/{row}" for row in range(21)]
    assert [entry.key for entry in order(entries(21), 6)] != train == [entry.key for entry in order(entries(21), 5)]


def test_any_webdataset_reader_reads_the_tars(tmp_path: Path) -> None:
    pack_splits(CONFIG, ("a", "b", "c"), two(21), tmp_path / "out", 1)
    shards = Shards.open(tmp_path / "out" / "train")
    urls = [str(shards.root / name) for name in shards.names]
    theirs = [(s["__key__"], int(s["cls"]), s["png"]) for s in webdataset.WebDataset(urls, shardshuffle=False)]
    ours = [(s.key, s.label, s.data) for block in shards.blocks for s in shards.read(block)]
    assert theirs == ours and len(ours) == 21


def test_every_unusable_image_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    splits = two(21)
    for row in (3, 19):
        splits["train"].entries[row] = broken(splits["train"].entries[row])
    splits["train"].quarantined.append(("notes.txt", "not an image by its name"))
    for row in (0, 1, 2):
        splits["val"].entries[row] = broken(dataclasses.replace(splits["val"].entries[row], path=f"val/{row}.png"))
    config = CONFIG.model_copy(update={"max_quarantined": 2})
    with pytest.raises(IntegrityError) as caught:
        pack_splits(config, ("a", "b", "c"), splits, tmp_path / "out", 1)
    text = str(caught.value)
    both = ("k3.png", "k19.png", "notes.txt", "6 unusable files", "is 2", "val/0.png", "val/1.png", "val/2.png")
    assert all(piece in text for piece in both)
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val: no images"):
        pack_splits(CONFIG, ("a", "b", "c"), {"train": Split(entries(21)), "val": Split([])}, tmp_path / "out", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_lost_all_its_images_is_refused(tmp_path: Path) -> None:
    splits = two(21)
    for row in range(1, 21, 3):
        splits["train"].entries[row] = broken(splits["train"].entries[row])
    config = CONFIG.model_copy(update={"max_quarantined": 100})
    with pytest.raises(IntegrityError, match="train: class 'b': no usable image is left"):
        pack_splits(config, ("a", "b", "c"), splits, tmp_path / "out", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [[0], [20], [3, 19], list(range(9)), [7, 8, 15, 16]])
def test_allowed_unusable_images_are_quarantined_and_the_counts_balance(tmp_path: Path, bad: list[int]) -> None:
    splits = two(21)
    for row in bad:
        splits["train"].entries[row] = broken(splits["train"].entries[row])
    config = CONFIG.model_copy(update={"max_quarantined": 9})
    manifest = pack_splits(config, ("a", "b", "c"), splits, tmp_path / "out", 1)["train"]
    assert manifest.samples + len(manifest.quarantined) == 21
    assert {item.path for item in manifest.quarantined} == {f"k{row}.png" for row in bad}
    good = [entry for row, entry in enumerate(entries(21)) if row not in bad]
    pack_splits(config, ("a", "b", "c"), {**two(21), "train": Split(good)}, tmp_path / "clean", 1)
    left = hashes(tmp_path / "out" / "train")
    right = hashes(tmp_path / "clean" / "train")
    assert left.pop("manifest.json") != right.pop("manifest.json")
    assert left == right


def test_a_file_that_changed_since_the_index_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_photo_folder(root, 1)
    splits = read_splits(CONFIG, root, scan(CONFIG, root))[1]
    victim = Path(splits["train"].entries[2].file)
    victim.write_bytes(victim.read_bytes() + b"x")
    Path(splits["val"].entries[1].file).unlink()
    with pytest.raises(IntegrityError, match=r"its size has changed from \d+ to \d+ bytes since the index was made"):
        pack_splits(CONFIG, ("a",) * 5, splits, tmp_path / "out", 1)


def test_a_failed_run_leaves_the_old_shards_and_a_good_one_replaces_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_splits(CONFIG, ("a", "b", "c"), two(21), out, 1)
    before = hashes(out)
    with pytest.raises(IntegrityError):
        pack_splits(CONFIG, ("a", "b", "c"), {"train": Split([broken(entries(1)[0])]), "val": Split([])}, out, 1)
    assert hashes(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]
    pack_splits(CONFIG, ("a", "b", "c"), two(4), out, 1)
    assert Shards.open(out / "train").samples == 4 and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "blocks")  # opening it waits for ever
    stuck = Entry("blocks", "z", 0, "png", 9, str(tmp_path / "blocks"))
    splits = {"val": Split(entries(5, "v")), "train": Split([*entries(21), stuck])}
    out = tmp_path / "work" / "out"
    child = multiprocessing.get_context("fork").Process(
        target=pack_splits, args=(CONFIG, ("a", "b", "c"), splits, out, 1)
    )
    child.start()
    while not list(tmp_path.glob("work/.out.*.partial/val/manifest.json")):
        assert child.is_alive()
        time.sleep(0.01)
    child.kill()
    child.join()
    assert not out.exists()
    pack_splits(CONFIG, ("a", "b", "c"), two(21), out, 1)
    assert Shards.open(out / "train").samples == 21
    assert "a killed run left this behind" in capsys.readouterr().out


def test_a_link_in_place_of_the_output_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "cache")
    pack_splits(CONFIG, ("a", "b", "c"), two(4), tmp_path / "out", 1)
    assert not (tmp_path / "out").is_symlink() and list((tmp_path / "cache").iterdir()) == []


def test_resize_makes_shorter_sides_and_leaves_small_images_verbatim(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_photo_folder(root, 7)
    config = CONFIG.model_copy(update={"resize": 60})
    classes, splits = read_splits(config, root, scan(config, root))
    pack_splits(config, classes, splits, tmp_path / "out", 1)
    original = {entry.key: Path(entry.file).read_bytes() for entry in splits["train"].entries}
    shards = Shards.open(tmp_path / "out" / "train")
    small = 0
    for block in shards.blocks:
        for sample in shards.read(block):
            side = min(decode_image(original[sample.key], "x").size)
            assert min(decode_image(sample.data, "x").size) == min(side, 60)
            small += sample.data == original[sample.key]
    assert 0 < small < shards.samples


def test_the_stages_pack_a_folder_of_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photo_folder(tmp_path / "data", 4)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    params = tmp_path / "params.yaml"
    params.write_text("data: {source: folder, classes: 5, shard_size: 8, block: 4}")
    listing, out = tmp_path / "work" / "index.tsv", tmp_path / "work" / "shards"
    assert CliRunner().invoke(index.main, ["--params", str(params), "--out", str(listing)]).exit_code == 0
    arguments = ["--params", str(params), "--index", str(listing), "--out", str(out)]
    result = CliRunner().invoke(shard.main, arguments)
    assert result.exit_code == 0 and "train: 20 images, 5 classes, 3 shards" in result.output
    victim = tmp_path / "data" / "train" / "cat" / "cat_000.JPEG"
    victim.write_bytes(victim.read_bytes()[:-40])
    assert CliRunner().invoke(index.main, ["--params", str(params), "--out", str(listing)]).exit_code == 0
    result = CliRunner().invoke(shard.main, arguments)
    assert result.exit_code == 3 and "cat_000.JPEG" in result.output and "truncated" in result.output
    assert Shards.open(out / "train").samples == 20


def test_an_image_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(2 << 30)
    entry = Entry("x.jpg", "x", 0, "jpg", 2 << 30, str(tmp_path / "x.jpg"))
    with pytest.raises(Undecodable, match="an image file has at most"):
        read_entry(entry)
