"""What the comparison of codecs compares with."""

import pytest

from bench.measure.codecs import probabilities_and_uniform_rest
from pipeline.cache.codec import through_codec
from pipeline.cache.fidelity import codec_divergence
from tests.support.logits import peaked, smoothed


@pytest.mark.parametrize("k", [8, 16])
def test_kl_is_below_that_of_top_probabilities_with_a_uniform_rest(k):
    logits = peaked(1000)
    ours = through_codec(f"top{k}", logits[None]).logits[0]
    theirs = probabilities_and_uniform_rest(logits, k)
    at = {
        tau: codec_divergence(logits, ours, tau).mean() / codec_divergence(logits, theirs, tau).mean()
        for tau in (1, 3, 10)
    }
    assert at[1] < 0.9 and at[3] < 0.7 and at[10] < 0.7, at
    soft = smoothed(logits)
    ours, theirs = through_codec(f"top{k}", soft[None]).logits[0], probabilities_and_uniform_rest(soft, k)
    assert all(
        codec_divergence(soft, ours, tau).mean() < codec_divergence(soft, theirs, tau).mean() for tau in (1, 3, 10)
    )
