"""The proof that views replay in other processes, at a small size."""

from pathlib import Path

import numpy as np

from bench.proofs import replay


def test_another_process_order_batch_hash_seed_and_cpu_capability_gives_the_same_views(tmp_path: Path) -> None:
    """Small size of bench/proofs/replay.py."""
    here = np.concatenate([replay.digests(replay.deit(32), [block]) for block in range(10)])
    variant = next(variant for variant in replay.VARIANTS if variant[-1] == "default")
    assert replay.launch(tmp_path / "there.npy", 160, 32, variant)
    assert np.array_equal(here, np.load(tmp_path / "there.npy"))
