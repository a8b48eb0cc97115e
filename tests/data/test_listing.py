"""The listing: keys, the file that holds it, and files that changed after it."""

import os
from pathlib import Path

import pytest

from pipeline.data.index_file import read_listing, write_listing
from pipeline.data.listing import File, content_key
from pipeline.data.pack import pack_splits
from pipeline.data.sources import read_splits, scan
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from tests.support.inputs import FOLDER, TARS


def test_a_listing_is_read_back_as_written_and_belongs_to_its_source(tmp_path: Path) -> None:
    path = tmp_path / "index.tsv"
    listed = [File("train/a b/ü.jpg", 7, "123"), File("val/x.jpg", 8, "9")]
    write_listing(path, "folder", listed)
    assert read_listing(path, "folder") == listed
    with pytest.raises(UsageError, match="expected the line"):
        read_listing(path, "imagenet")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="cut off"):
        read_listing(path, "folder")
    with pytest.raises(UsageError, match=r"python -m stages\.index"):
        read_listing(tmp_path / "none.tsv", "folder")


def test_keys_are_ids_that_webdataset_keeps_whole() -> None:
    stems = ["a/b", "a.b/c", "a%2Eb/c", "a b", "a_b", "__x__/a", "_x", "ü", "x" * 95, "x" * 96, "img.v1", "img.v2"]
    keys = [content_key(stem) for stem in stems]
    assert len(set(keys)) == len(stems)
    assert all("." not in key and len(key) <= 90 and key.isascii() and not key.startswith("__") for key in keys)
    assert content_key("n01440764/n01440764_10026") == "n01440764/n01440764_10026"


def test_a_file_replaced_by_another_of_the_same_size_is_refused(folder: Path) -> None:
    listed = scan(FOLDER, folder)
    victim = folder / "train" / "ant" / "1.png"
    stamp = victim.stat().st_mtime_ns
    victim.write_bytes(victim.read_bytes())
    os.utime(victim, ns=(stamp + 1, stamp + 1))
    classes, splits = read_splits(FOLDER, folder, listed)
    with pytest.raises(PipelineError, match=r"'train/ant/1.png': it was written again since the index was made; run: "):
        pack_splits(FOLDER, classes, splits, folder.parent / "out", 1)
    os.utime(victim, ns=(stamp, stamp))
    pack_splits(FOLDER, classes, splits, folder.parent / "out", 1)


def test_a_tar_or_a_label_list_that_changed_since_the_listing_is_refused(tars: Path) -> None:
    (tars / "classes.txt").write_text("ant\nbee\ncat\n")
    listed = scan(TARS, tars)
    classes, splits = read_splits(TARS, tars, listed)
    for name in ("train/a.tar", "classes.txt"):
        status = (tars / name).stat()
        os.utime(tars / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(PipelineError, match=f"'{name}': it was written again since the index was made"):
            read_splits(TARS, tars, listed)
        if name == "train/a.tar":
            with pytest.raises(PipelineError, match="it was written again"):
                pack_splits(TARS, classes, splits, tars / "out", 1)
        os.utime(tars / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    read_splits(TARS, tars, listed)
