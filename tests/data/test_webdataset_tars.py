"""Foreign tars: read whole and checked, or refused with every problem; never a silently lost sample."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from webdataset import TarWriter

from pipeline.data.images import encode_png
from pipeline.data.listing import Problems
from pipeline.data.pack import read_entry
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.data.tars import TarDamage, walk
from pipeline.data.webdataset_tars import _compare, _group
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError

PNG = [encode_png(np.full((8, 8), value, np.uint8)) for value in range(12)]
CONFIG = DataConfig(source="webdataset", shard_size=4, block=2)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    return info, data


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))


def plain(count: int, prefix: str = "s") -> list[tuple[tarfile.TarInfo, bytes]]:
    rows = range(count)
    return [m for i in rows for m in (member(f"{prefix}{i}.cls", b"%d" % (i % 3)), member(f"{prefix}{i}.png", PNG[i]))]


def read(root: Path) -> tuple[tuple[str, ...], dict]:
    return read_splits(CONFIG, root, scan(CONFIG, root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tar(tmp_path / "train" / "a.tar", plain(6))
    write_tar(tmp_path / "val" / "a.tar", plain(3))
    return tmp_path


def test_tars_of_webdataset_are_read_in_natural_order_and_byte_for_byte(tmp_path: Path) -> None:
    for name, rows in (("in-train-01.tar", range(4, 8)), ("in-train-00.tar", range(4)), ("in-validation-0.tar", [0])):
        with TarWriter(str(tmp_path / name)) as writer:
            for row in rows:
                writer.write({"__key__": f"dir/{row}", "PNG": PNG[row], "cls": row % 3, "json": {"caption": "x"}})
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    classes, splits = read(tmp_path)
    assert classes == ("ant", "bee", "cat")
    assert [entry.key for entry in splits["train"].entries] == [f"dir/{row}" for row in range(8)]
    assert [read_entry(entry) for entry in splits["train"].entries] == PNG[:8]
    assert [entry.label for entry in splits["train"].entries] == [row % 3 for row in range(8)]


def test_long_names_and_pax_headers_are_understood(root: Path) -> None:
    long = "d" * 90 + "/" + "e" * 90
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        members = [member(f"{long}.cls", b"1"), member(f"{long}.png", PNG[1])]
        for info, _ in members:
            info.mtime = 1.5  # a pax header of its own
        write_tar(root / "train" / f"{form}.tar", [*members, *plain(2, str(form))], form)
        assert [m.name for m in walk(root / "train" / f"{form}.tar")][:2] == [f"{long}.cls", f"{long}.png"]
    write_tar(root / "train" / f"{tarfile.PAX_FORMAT}.tar", plain(2, "other"))
    entry = next(entry for entry in read(root)[1]["train"].entries if entry.key.startswith("ddd"))
    assert read_entry(entry) == PNG[1] and len(entry.key) <= 90


def test_a_label_in_json_is_taken_where_there_is_no_cls(root: Path) -> None:
    write_tar(root / "val" / "a.tar", [member("x.json", b'{"label": 2}'), member("x.png", PNG[0])])
    assert [entry.label for entry in read(root)[1]["val"].entries] == [2]


ODDITIES: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "no label": ([member("x.png", PNG[0])], "expected one image and a .cls"),
    "no image": ([member("x.cls", b"1")], "expected one image and a .cls"),
    "two images": ([member("x.cls", b"1"), member("x.png", PNG[0]), member("x.jpg", PNG[0])], "expected one image"),
    "member twice": ([member("x.cls", b"1"), member("x.png", PNG[0]), member("x.png", PNG[1])], "twice in one tar"),
    "key twice": ([*plain(2), *plain(1)], "twice in one tar"),
    "interleaved": (
        [member("x.cls", b"1"), member("y.cls", b"1"), member("x.png", PNG[0]), member("y.png", PNG[1])],
        "not in one piece",
    ),
    "dotted key": ([member("img.v1.png", PNG[0]), member("img.v1.cls", b"1")], "a dot inside the key"),
    "leaves its directory": ([member("../x.cls", b"1"), member("../x.png", PNG[0])], "not a key"),
    "absolute": ([member("/x.cls", b"1"), member("/x.png", PNG[0])], "not a key"),
    "special": ([member("__x__/a.cls", b"1"), member("__x__/a.png", PNG[0])], "not a key"),
    "newline": ([member("x\ny.cls", b"1"), member("x\ny.png", PNG[0])], "control characters"),
    "symlink": ([*plain(1), member("y.png", b"", tarfile.SYMTYPE)], "a link or device"),
    "hard link": ([*plain(1), member("y.png", b"", tarfile.LNKTYPE)], "a link or device"),
    "fifo": ([*plain(1), member("y.png", b"", tarfile.FIFOTYPE)], "a link or device"),
    "empty image": ([member("x.cls", b"1"), member("x.png", b"")], "empty image"),
    "bad __bad__": ([member("x.cls", b"1"), member("x.png", PNG[0]), member("x.__bad__", b"1")], ""),
    **{
        f"label {text!r}": ([member("x.cls", text), member("x.png", PNG[0])], "no label")
        for text in (b"", b"-1", b"1_000", b"5 5", b"cat", b"1.0", b"99999999", "٣".encode())
    },
}


@pytest.mark.parametrize("kind", ODDITIES)
def test_odd_members_are_refused_by_name(root: Path, kind: str) -> None:
    members, reason = ODDITIES[kind]
    write_tar(root / "train" / "b.tar", members)
    if not reason:  # webdataset would drop this sample; only fields that we know reach it, so it is whole
        assert len(read(root)[1]["train"].entries) == 6 + 1
        return
    with pytest.raises(PipelineError, match=reason):
        read(root)


def test_all_problems_of_all_tars_are_listed_at_once(root: Path) -> None:
    write_tar(root / "train" / "b.tar", ODDITIES["no label"][0])
    write_tar(root / "train" / "c.tar", ODDITIES["dotted key"][0])
    (root / "val" / "d.tar").write_bytes(b"")
    with pytest.raises(IntegrityError) as caught:
        read(root)
    text = str(caught.value)
    assert "4 problems" in text and "b.tar" in text and "c.tar" in text and "d.tar" in text


def test_one_key_in_two_tars_is_refused(root: Path) -> None:
    write_tar(root / "train" / "b.tar", plain(1))
    with pytest.raises(UsageError, match=r"key 's0' twice: 'train/a.tar: s0' and 'train/b.tar: s0'"):
        read(root)


def headers(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [info.offset for info in archive]


def end(whole: bytes) -> int:
    return len(whole.rstrip(b"\0"))


def header_flip(whole: bytes, generator: np.random.Generator) -> bytes:
    data = bytearray(whole)
    data[int(generator.choice(headers(whole))) + int(generator.integers(0, 148))] ^= 16
    return bytes(data)


def zeros(whole: bytes, at: int, count: int) -> bytes:
    return whole[:at] + bytes(count) + whole[at + count :]


def false_end(whole: bytes, generator: np.random.Generator) -> bytes:
    at = int(generator.choice(headers(whole)[1:]))
    return whole[:at] + bytes(1024) + whole[at:]


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "header flip": header_flip,
    "cut": lambda whole, generator: whole[: generator.integers(0, end(whole))],
    "cut at a header": lambda whole, generator: whole[: generator.choice(headers(whole))],
    "zeroed header": lambda whole, generator: zeros(whole, int(generator.choice(headers(whole))), 512),
    "zeroed last header": lambda whole, generator: zeros(whole, headers(whole)[-1], 512),  # hides only its own member
    "zeroed page": lambda whole, generator: zeros(whole, int(generator.integers(0, end(whole) - 4096)), 4096),
    "false end": false_end,
    "concatenated": lambda whole, generator: whole + whole,
    "a web page": lambda whole, generator: b"<html>" * 500,
    "compressed": lambda whole, generator: b"\x1f\x8b" + whole[2:],
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_that_loses_samples_silently_elsewhere_is_found(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "train.tar"
    write_tar(path, plain(12))
    whole = path.read_bytes()
    generator = np.random.default_rng(3)
    for _ in range(60):
        path.write_bytes(DAMAGES[kind](whole, generator))
        with pytest.raises(TarDamage):
            walk(path)


def test_a_tar_that_changes_no_bytes_of_ours_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    write_tar(path, plain(5))
    assert len(walk(path)) == 10


def test_no_url_of_a_tar_runs_a_command(root: Path) -> None:
    marker = root / "marker"
    name = "pipe:touch marker;#train?.tar"
    write_tar(root / "train" / name, plain(2, "p"))
    assert len(read(root)[1]["train"].entries) == 8
    assert not marker.exists()


def test_missing_split_compressed_and_unplaced_tars_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", plain(2))
    write_tar(tmp_path / "more.tar", plain(2))
    (tmp_path / "val.tar.gz").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        scan(CONFIG, tmp_path)
    assert all(text in str(caught.value) for text in ("no tars for val", "'more.tar'", "'val.tar.gz': compressed"))


def test_a_sample_that_webdataset_would_not_hand_out_unharmed_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    write_tar(path, plain(3))
    problems = Problems()
    samples = _group("train.tar", walk(path), problems)
    _compare(path, "train.tar", samples, problems)
    assert problems.count == 0
    samples["s1"]["png"] = samples["s2"]["png"]
    _compare(path, "train.tar", samples, problems)
    with pytest.raises(IntegrityError, match="webdataset hands out only the first 1 of 3 samples unharmed"):
        problems.check("x")
