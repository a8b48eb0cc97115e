"""A folder and tars of images, made anew for each test."""

from pathlib import Path

import pytest

from tests.support.inputs import write_folder, write_tars


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return write_tars(tmp_path)
