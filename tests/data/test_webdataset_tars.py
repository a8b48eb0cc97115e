"""Foreign tars: read whole and checked, or refused with every problem; never a silently lost sample."""

import tarfile
import tracemalloc
from pathlib import Path

import pytest
from webdataset import TarWriter

from pipeline.data.listing import Problems
from pipeline.data.pack import read_entry
from pipeline.data.sources import scan
from pipeline.data.tars import walk
from pipeline.data.webdataset_tars import _compare, _group
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from tests.support.inputs import PNG, TARS, member, read, refused, tar_samples, write_tar


def test_tars_of_webdataset_are_read_in_natural_order_and_byte_for_byte(tmp_path: Path) -> None:
    for name, rows in (("in-train-01.tar", range(4, 8)), ("in-train-00.tar", range(4)), ("in-validation-0.tar", [0])):
        with TarWriter(str(tmp_path / name)) as writer:
            for row in rows:
                writer.write({"__key__": f"dir/{row}", "PNG": PNG[row], "cls": row % 3, "json": {"caption": "x"}})
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    classes, splits = read(TARS, tmp_path)
    assert classes == ("ant", "bee", "cat")
    assert [entry.key for entry in splits["train"].entries] == [f"dir/{row}" for row in range(8)]
    assert [read_entry(entry) for entry in splits["train"].entries] == PNG[:8]
    assert [entry.label for entry in splits["train"].entries] == [row % 3 for row in range(8)]


def test_long_names_and_pax_headers_are_understood(tars: Path) -> None:
    long = "d" * 90 + "/" + "e" * 90
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        members = [member(f"{long}.cls", b"1"), member(f"{long}.png", PNG[1])]
        for info, _ in members:
            info.mtime = 1.5  # a pax header of its own
        write_tar(tars / "train" / f"{form}.tar", [*members, *tar_samples(2, str(form))], form)
        assert [m.name for m in walk(tars / "train" / f"{form}.tar")][:2] == [f"{long}.cls", f"{long}.png"]
    write_tar(tars / "train" / f"{tarfile.PAX_FORMAT}.tar", tar_samples(2, "other"))
    entry = next(entry for entry in read(TARS, tars)[1]["train"].entries if entry.key.startswith("ddd"))
    assert read_entry(entry) == PNG[1] and len(entry.key) <= 90


def test_a_label_in_json_is_taken_where_there_is_no_cls(tars: Path) -> None:
    write_tar(tars / "val" / "a.tar", [member("x.json", b'{"label": 2}'), member("x.png", PNG[0])])
    assert [entry.label for entry in read(TARS, tars)[1]["val"].entries] == [2]


ODDITIES: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "no label": ([member("x.png", PNG[0])], "expected one image and a .cls"),
    "no image": ([member("x.cls", b"1")], "expected one image and a .cls"),
    "two images": ([member("x.cls", b"1"), member("x.png", PNG[0]), member("x.jpg", PNG[0])], "expected one image"),
    "member twice": ([member("x.cls", b"1"), member("x.png", PNG[0]), member("x.png", PNG[1])], "twice in one tar"),
    "key twice": ([*tar_samples(2), *tar_samples(1)], "twice in one tar"),
    "interleaved": (
        [member("x.cls", b"1"), member("y.cls", b"1"), member("x.png", PNG[0]), member("y.png", PNG[1])],
        "not in one piece",
    ),
    "dotted key": ([member("img.v1.png", PNG[0]), member("img.v1.cls", b"1")], "a dot inside the key"),
    "leaves its directory": ([member("../x.cls", b"1"), member("../x.png", PNG[0])], "not a key"),
    "absolute": ([member("/x.cls", b"1"), member("/x.png", PNG[0])], "not a key"),
    "special": ([member("__x__/a.cls", b"1"), member("__x__/a.png", PNG[0])], "not a key"),
    "newline": ([member("x\ny.cls", b"1"), member("x\ny.png", PNG[0])], "control characters"),
    "symlink": ([*tar_samples(1), member("y.png", b"", tarfile.SYMTYPE)], "a link or device"),
    "hard link": ([*tar_samples(1), member("y.png", b"", tarfile.LNKTYPE)], "a link or device"),
    "fifo": ([*tar_samples(1), member("y.png", b"", tarfile.FIFOTYPE)], "a link or device"),
    "empty image": ([member("x.cls", b"1"), member("x.png", b"")], "empty image"),
    "bad __bad__": ([member("x.cls", b"1"), member("x.png", PNG[0]), member("x.__bad__", b"1")], ""),
    **{
        f"label {text!r}": ([member("x.cls", text), member("x.png", PNG[0])], "no label")
        for text in (b"", b"-1", b"1_000", b"5 5", b"cat", b"1.0", b"99999999", "٣".encode())
    },
}


@pytest.mark.parametrize("kind", ODDITIES)
def test_odd_members_are_refused_by_name(tars: Path, kind: str) -> None:
    members, reason = ODDITIES[kind]
    write_tar(tars / "train" / "b.tar", members)
    if not reason:  # webdataset would drop this sample; only fields that we know reach it, so it is whole
        assert len(read(TARS, tars)[1]["train"].entries) == 6 + 1
        return
    with pytest.raises(PipelineError, match=reason):
        read(TARS, tars)


def test_all_problems_of_all_tars_are_listed_at_once(tars: Path) -> None:
    write_tar(tars / "train" / "b.tar", ODDITIES["no label"][0])
    write_tar(tars / "train" / "c.tar", ODDITIES["dotted key"][0])
    (tars / "val" / "d.tar").write_bytes(b"")
    with pytest.raises(IntegrityError) as caught:
        read(TARS, tars)
    text = str(caught.value)
    assert "4 problems" in text and "b.tar" in text and "c.tar" in text and "d.tar" in text


def test_one_key_in_two_tars_is_refused(tars: Path) -> None:
    write_tar(tars / "train" / "b.tar", tar_samples(1))
    with pytest.raises(UsageError, match=r"key 's0' twice: 'train/a.tar: s0' and 'train/b.tar: s0'"):
        read(TARS, tars)


def test_no_url_of_a_tar_runs_a_command(tars: Path) -> None:
    marker = tars / "marker"
    name = "pipe:touch marker;#train?.tar"
    write_tar(tars / "train" / name, tar_samples(2, "p"))
    assert len(read(TARS, tars)[1]["train"].entries) == 8
    assert not marker.exists()


def test_missing_split_compressed_and_unplaced_tars_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", tar_samples(2))
    write_tar(tmp_path / "more.tar", tar_samples(2))
    (tmp_path / "val.tar.gz").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        scan(TARS, tmp_path)
    assert all(text in str(caught.value) for text in ("no tars for val", "'more.tar'", "'val.tar.gz': compressed"))


def test_a_sample_that_webdataset_would_not_hand_out_unharmed_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    write_tar(path, tar_samples(3))
    problems = Problems()
    samples = _group("train.tar", walk(path), problems)
    _compare(path, "train.tar", samples, problems)
    assert problems.count == 0
    samples["s1"]["png"] = samples["s2"]["png"]
    _compare(path, "train.tar", samples, problems)
    with pytest.raises(IntegrityError, match="webdataset hands out only the first 1 of 3 samples unharmed"):
        problems.check("x")


@pytest.mark.parametrize("text", [b"2\r\n", b" 2 ", b"2\n", "\ufeff2".encode(), b"02"])
def test_a_label_is_its_number_whatever_the_editor_put_around_it(tars: Path, text: bytes) -> None:
    write_tar(tars / "train" / "b.tar", [member("x.cls", text), member("x.png", PNG[0])])
    assert read(TARS, tars)[1]["train"].entries[-1].label == 2


def test_a_label_that_is_none_is_shown(tars: Path) -> None:
    members = [
        member("x.cls", b"1.5\r\n"),
        member("x.png", PNG[0]),
        member("y.png", PNG[0]),
        member("y.json", b"[" * 10**5),
    ]
    write_tar(tars / "train" / "b.tar", members)
    code, text = refused(TARS, tars)
    assert code == 3 and r"expected a whole number from 0 to 999999, found b'1.5\r\n'" in text
    assert "found in .json ValueError: lists or objects nested" in text


def test_other_fields_of_a_sample_stand_beside_its_image_and_no_key_with_a_dot_is_lost(
    tars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = [member("x.cls", b"1"), member("x.png", PNG[0])]
    extra = [
        member("x.seg.png", PNG[1]),
        member("x.seg.json", b"[]"),
        member("x.depth.tif", b"d"),
        member("x.tif", b"t"),
    ]
    apple = [member("._x.png", b"a"), member(".DS_Store", b"d")]
    write_tar(tars / "train" / "b.tar", [*apple, *sample[:1], *extra[:1], *sample[1:], *extra[2:]])
    entries = read(TARS, tars)[1]["train"].entries
    assert [entry.path for entry in entries[-2:]] == ["train/a.tar: s5", "train/b.tar: x"] and entries[-1].kind == "png"
    assert "2 files left aside, not named as images: 'train/b.tar: ._x.png'" in capsys.readouterr().out
    own = [member("x.v1.cls", b"1"), member("x.v1.png", PNG[1])]
    write_tar(tars / "train" / "b.tar", [*sample, *own])
    code, text = refused(TARS, tars)
    assert code == 2 and "'train/b.tar: x.v1.png': a dot inside the key" in text


def test_an_image_and_a_label_under_names_that_look_the_same_are_named_with_what_differs(tars: Path) -> None:
    write_tar(
        tars / "train" / "b.tar", [member("caf\u00e9.cls", b"1"), member("cafe\u0301.png", PNG[0])], tarfile.PAX_FORMAT
    )
    code, text = refused(TARS, tars)
    assert code == 3 and r"which only has another Unicode form: 'cafe\u0301' and not 'caf\xe9'" in text


@pytest.mark.parametrize(("field", "size"), [("cls", 3 << 30), ("json", 3 << 30), ("png", 2 << 30)])
def test_a_member_of_gigabytes_is_refused_by_its_header(tars: Path, field: str, size: int) -> None:
    path = tars / "train" / "b.tar"
    info = tarfile.TarInfo(f"x.{field}")
    info.size = size
    rest = member("x.png" if field != "png" else "x.cls", b"1")
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, 1)  # a hole: no byte on the disk
        file.write(rest[0].tobuf() + rest[1].ljust(512, b"\0") + bytes(1024))
    tracemalloc.start()
    try:
        code, text = refused(TARS, tars)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert code == 3 and str(size) in text


def test_a_json_beside_a_cls_is_not_read(tars: Path) -> None:
    sample = [member("x.cls", b"1"), member("x.json", bytes(2 << 20)), member("x.png", PNG[0])]
    write_tar(tars / "train" / "b.tar", sample)
    assert read(TARS, tars)[1]["train"].entries[-1].label == 1
