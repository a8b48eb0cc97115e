"""A cached run is the live run, at a small size; bench/parity.py is the whole proof."""

from pathlib import Path

from bench.parity import compare


def test_cached_live_and_half_cached_runs_have_the_same_losses_and_weights_to_the_last_bit(tmp_path: Path) -> None:
    rows = compare(tmp_path, steps=8, views=6, samples=349, arch="test_byobnet", epochs=0.0, workers=1)
    assert len(rows) == 6
    for row in rows:
        assert row[3:] == ("8 of 8", "equal"), row
