"""A cached run is the live run, at a small size; bench/parity.py is the whole proof."""

import os
import subprocess
import sys

import pytest
import torch

from bench.parity import KINDS, compare
from bench.world import World, make_world
from pipeline.cache.codec import CodecName


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_cached_live_and_half_cached_runs_have_the_same_losses_and_weights_to_the_last_bit(
    world: World, kind: str, codec: CodecName
) -> None:
    rows = list(compare(world, steps=8, views=6, kind=kind, codec=codec, workers=1))
    assert len(rows) == 2
    for row in rows:
        assert row[3:] == ("8 of 8", "equal"), row


# Where there is no GPU, tests/test_accelerator.py runs the test above on a device of its own. This one needs CUDA's kernels.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_so_they_have_on_a_gpu() -> None:
    command = "-m bench.parity --steps 8 --views 6 --samples 349 --epochs 0".split()
    environment = {**os.environ, "DISTIL_DEVICE": "cuda"}
    found = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
