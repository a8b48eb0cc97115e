import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.cache.codec import (
    CODECS,
    bytes_per_view,
    codec_version,
    hard_labels,
    pack,
    packed_dtype,
    packed_width,
    require_codec,
    through_codec,
    unpack,
)
from pipeline.runtime.errors import IntegrityError, UsageError

rows = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=st.floats(-60000, 60000, width=32))


@settings(max_examples=200, deadline=None)
@given(rows)
def test_u8_error_is_at_most_half_a_step_plus_rounding_and_nothing_is_clipped(logits):
    decoded = unpack("u8", pack("u8", logits), logits.shape[-1])
    reach = logits.max(-1, keepdims=True) - logits.min(-1, keepdims=True)
    # The offset is at most one float16 spacing below the minimum, and the step at most one above a 255th of the rest.
    spacing = np.spacing(np.abs(logits).max(-1, keepdims=True).astype(np.float16)).astype(np.float64)
    bound = (reach + spacing) / 255 / 2 * 1.01 + np.spacing(np.float16(reach.max() / 255 + 1)) + 1e-6
    assert (np.abs(decoded.astype(np.float64) - logits) <= bound + spacing / 255).all()


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from(["u8", "f16"]))
def test_a_row_is_encoded_alone(logits, codec):
    whole = pack(codec, logits)
    alone = np.stack([pack(codec, row[None])[0] for row in logits])
    assert whole.tobytes() == alone.tobytes()


def test_stored_bytes_are_what_the_codec_promises():
    logits = np.random.default_rng(0).normal(size=(3, 7, 1000)).astype(np.float32)
    for codec in ("u8", "f16"):
        stored = pack(codec, logits)
        assert stored.dtype == packed_dtype(codec)
        assert stored.shape == (3, 7, packed_width(codec, 1000))
        assert stored.nbytes == 3 * 7 * bytes_per_view(codec, 1000)
    assert bytes_per_view("u8", 1000) == 1004
    assert pack("none", logits) is None


def test_stored_bytes_never_change_without_a_new_codec_version():
    logits = np.array([[-1.5, 0.0, 3.14159, 3.14160]], np.float32)
    assert [codec_version(codec) for codec in CODECS] == [1] * len(CODECS)
    assert pack("u8", logits).tobytes().hex() == "0052ffff00bea924"
    assert pack("f16", logits).tobytes().hex() == "00be000048424842"


def test_hard_label_comes_from_full_precision_and_ties_go_to_the_smallest_class():
    logits = np.array([[10.0, 10.0001, 0.0], [5.0, 5.0, 5.0]], np.float32)
    for codec in CODECS:
        assert through_codec(codec, logits[None]).hard.tolist() == [[1, 0]]
    assert pack("f16", logits)[0, 0] == pack("f16", logits)[0, 1]


def test_kl_of_u8_is_small_at_both_temperatures():
    logits = np.random.default_rng(1).normal(0, 2.5, (500, 1000)).astype(np.float32)
    decoded = unpack("u8", pack("u8", logits), logits.shape[-1])
    for tau in (1.0, 3.0):
        p, q = (x.astype(np.float64) / tau for x in (logits, decoded))
        p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
        assert (np.exp(p) * (p - q)).sum(-1).mean() < 2e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", ["u8", "f16"])
def test_a_teacher_that_returns_nan_or_infinity_is_refused(bad, codec):
    logits = np.zeros((1, 2, 3), np.float32)
    logits[0, 1, 2] = bad
    with pytest.raises(IntegrityError, match="1 of 6 values"):
        pack(codec, logits)
    with pytest.raises(IntegrityError, match="NaN or infinite"):
        hard_labels(logits)


def test_logits_beyond_float16_and_too_many_classes_are_refused():
    with pytest.raises(IntegrityError, match="does not fit codec f16"):
        pack("f16", np.full((1, 2), 70000, np.float32))
    with pytest.raises(UsageError, match="65534"):
        require_codec("none", 65535)
    with pytest.raises(UsageError, match="codec top32: K must be below"):
        require_codec("top32", 10)
    require_codec("none", 65534)
