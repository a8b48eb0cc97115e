"""What a codec loses: the figure of which a run is warned is the measured one."""

import pytest

from pipeline.cache.codec import through_codec
from pipeline.cache.fidelity import expected_kl
from tests.support.logits import divergence, peaked


@pytest.mark.parametrize("k", [4, 16, 100, 255])
def test_the_kl_of_which_a_run_is_warned_is_the_measured_one(k):
    logits = peaked(1500)
    for codec, atol in ((f"top{k}", 0.005), ("u8", 1e-4)):
        kept = through_codec(codec, logits[None]).logits[0]
        for tau in (1.0, 3.0, 7.0, 20.0):
            measured, told = divergence(logits, kept, tau).mean(), expected_kl(codec, tau)
            # Between the measured K and tau it is the larger of two, or a straight line: never far below the truth.
            assert measured < 1.2 * told + atol and (k == 100 or told < 1.4 * measured + atol), (
                codec,
                tau,
                measured,
                told,
            )
