"""A cache grows with its data, at a small size; bench/proofs/growth.py is the whole proof."""

import os
from pathlib import Path

import pytest

from bench.proofs.growth import prove


def test_a_change_labels_few_parts_and_the_rest_is_a_fresh_labelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATA_ROOT", "DISTIL_POOL", "DISTIL_WORKERS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # given back at the end
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(Path.cwd())
    assert prove(tmp_path / "made", [60, 70], shard_size=16, views=3, steps=0) == 0
    assert "| 70 | 5 | 5 | 2 | True |" in capsys.readouterr().out
