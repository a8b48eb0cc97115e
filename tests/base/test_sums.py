"""Sums of what a stage wrote: each file is compared before it is read, and nothing trains without."""

from pathlib import Path

import pytest

from pipeline.base import files
from pipeline.base.sums import SUMS, require_sums, require_unchanged, summed_directory
from pipeline.runtime.errors import IntegrityError, UsageError


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with summed_directory(tmp_path / "out", ("a.json",)) as fresh:
        files.write_durably(fresh / "a.json", b"[1]\n")
        files.write_durably(fresh / "ema" / "b.bin", b"abc")
    return tmp_path / "out"


def test_equal_files_have_equal_sums_and_are_read(made: Path, tmp_path: Path) -> None:
    first = (made / SUMS).read_bytes()
    with summed_directory(made, ("a.json",)) as fresh:
        files.write_durably(fresh / "ema" / "b.bin", b"abc")
        files.write_durably(fresh / "a.json", b"[1]\n")
    assert (made / SUMS).read_bytes() == first
    require_sums(made / "a.json", made / "ema" / "b.bin")
    require_sums(tmp_path / "nothing" / "x")  # what is not there is the reader's to say


@pytest.mark.parametrize("victim", ["a.json", "ema/b.bin", SUMS])
def test_every_flipped_bit_of_every_file_is_damage(made: Path, victim: str) -> None:
    whole = (made / victim).read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (made / victim).write_bytes(changed)
        with pytest.raises(IntegrityError):
            for name in ("a.json", "ema/b.bin"):
                require_unchanged(made / name)


def test_a_file_that_is_gone_or_new_or_no_file_is_damage(made: Path) -> None:
    (made / "new").write_bytes(b"")
    with pytest.raises(IntegrityError, match="nothing of it"):
        require_unchanged(made / "new")
    (made / "ema" / "b.bin").unlink()
    with pytest.raises(IntegrityError, match=r"b\.bin: missing"):
        require_unchanged(made / "a.json")
    for make in (Path.mkdir, lambda path: path.symlink_to("nowhere"), lambda path: path.write_bytes(b"[]\n")):
        (made / SUMS).rmdir() if (made / SUMS).is_dir() else (made / SUMS).unlink()
        make(made / SUMS)
        with pytest.raises(IntegrityError, match=r"sums\.json: damaged"):
            require_unchanged(made / "a.json")


def test_files_without_sums_are_read_with_one_warning_and_train_nothing(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / SUMS).unlink()
    for _ in range(2):
        require_unchanged(made / "a.json")
    assert capsys.readouterr().out.count("has no sums.json") == 1
    with pytest.raises(UsageError, match="nothing is trained from files without"):
        require_sums(made / "a.json")
