"""Tars: damage that loses samples silently elsewhere is found, in every form."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.tars import TarDamage, walk
from tests.support.inputs import tar_samples, write_tar


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
    write_tar(path, tar_samples(12))
    whole = path.read_bytes()
    generator = np.random.default_rng(3)
    for _ in range(60):
        path.write_bytes(DAMAGES[kind](whole, generator))
        with pytest.raises(TarDamage):
            walk(path)


def test_a_tar_that_changes_no_bytes_of_ours_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    write_tar(path, tar_samples(5))
    assert len(walk(path)) == 10
