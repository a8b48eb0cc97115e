"""A cached run is the live run, at a small size; bench/proofs/parity.py is the whole proof."""

import os
import subprocess
import sys

import pytest
import torch

from bench.proofs.parity import KINDS, compare
from pipeline.cache.codec import CodecName
from tests.support.world import World, make_world


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, World]:
    """By the recipe's shared_pairing: 1, every view has its own partners; 3, the three views of an image stand together."""
    return {shared: make_world(tmp_path_factory.mktemp("world"), shared_pairing=shared) for shared in (1, 3)}


@pytest.mark.parametrize(("shared", "kind", "codec"), [(1, *KINDS[0]), (1, *KINDS[1]), (3, *KINDS[2])])
def test_cached_live_and_half_cached_runs_have_the_same_losses_and_weights_to_the_last_bit(
    worlds: dict[int, World], shared: int, kind: str, codec: CodecName
) -> None:
    world = worlds[shared]
    rows = list(compare(world, steps=8, views=6, kind=kind, codec=codec, workers=1))
    assert len(rows) == 2
    for row in rows:
        assert row[3:] == ("8 of 8", "equal"), row


# Where there is no GPU, test_accelerator.py runs the test above on a device of its own. This one needs CUDA's kernels.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_so_they_have_on_a_gpu() -> None:
    command = "-m bench.proofs.parity --steps 8 --views 6 --samples 349 --epochs 0".split()
    environment = {**os.environ, "DISTIL_DEVICE": "cuda"}
    found = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
