"""Codec topK: what a row keeps, that it is a row's alone, that its bytes are fixed, and that damage is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.cache import topk
from pipeline.cache.codec import bytes_per_view, pack, require_codec, through_codec, top_k, unpack
from pipeline.cache.topk import row_of
from pipeline.runtime.errors import IntegrityError, UsageError
from tests.support.logits import peaked

REST_TAU = 1.0 / np.log(2.0)

values = st.one_of(st.floats(-60000, 60000, width=32), st.sampled_from([0.0, -0.0, 1.0, 1.0000001, -7.5]))
rows = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(5, 40)), elements=values)


def named(logits: np.ndarray, n: int) -> np.ndarray:
    """The n largest of a row, of equal ones the smaller classes, ascending: by a stable sort."""
    return np.sort(np.argsort(-logits, axis=-1, kind="stable")[..., :n], axis=-1)


@settings(max_examples=300, deadline=None)
@given(rows, st.integers(4, 40))
def test_a_row_keeps_its_hard_label_its_named_classes_and_their_values(logits, k):
    classes = logits.shape[-1]
    k = min(k, classes - 1)
    n = min(7 * k // 4, classes)
    found = topk.unpack(k, classes, topk.pack(k, logits)).astype(np.float64)
    assert np.array_equal(found.argmax(-1), logits.argmax(-1))
    for row, back, ids in zip(logits.astype(np.float64), found, named(logits, n), strict=True):
        others = np.setdiff1d(np.arange(classes), ids)
        assert len(set(back[others])) <= 1
        top, gap = row.max(), row.max() - row[ids].min()
        spacing = float(np.spacing(np.float16(min(abs(top), 65504.0))))
        # Half a spacing of the top; half of the widest step, 125 of 3969 steps; a step where the hard label's level is
        # kept free; the step's own rounding, and what float32 needs to tell two logits apart.
        step = gap / 3969 * 1.002 + abs(top) * 2.0**-19 + 2.0**-23
        assert (np.abs(back[ids] - row[ids]) <= spacing / 2 + 62.5 * step + abs(top) * 1e-6).all()


@settings(max_examples=100, deadline=None)
@given(rows)
def test_a_row_is_packed_alone_and_unpacked_alone(logits):
    whole = pack("top4", logits)
    assert np.array_equal(whole, np.concatenate([pack("top4", row[None]) for row in logits]))
    again = [unpack("top4", row[None], logits.shape[-1]) for row in whole]
    assert np.array_equal(unpack("top4", whole, logits.shape[-1]), np.concatenate(again))


def test_of_equal_logits_the_smaller_classes_are_named():
    logits = np.array([[3.0] * 5 + [2.0] * 5 + [0.0] * 5, [0.0] * 5 + [2.0] * 5 + [3.0] * 5], np.float32)
    found = topk.unpack(4, 15, topk.pack(4, logits))  # of five twos two are named, and the rest lies at 1.2
    assert np.abs(found[0] - ([3.0] * 5 + [2.0] * 2 + [1.2] * 8)).max() < 0.2
    assert np.abs(found[1] - ([1.2] * 5 + [2.0] * 2 + [1.2] * 3 + [3.0] * 5)).max() < 0.2
    assert found.argmax(-1).tolist() == [0, 10]


@pytest.mark.parametrize(("k", "classes", "width"), [(16, 1000, 52), (32, 1000, 91), (8, 1000, 31), (16, 21841, 68)])
def test_a_row_is_as_short_as_promised_at_any_shape(k, classes, width):
    logits = np.random.default_rng(0).normal(0, 3, (2, 3, classes)).astype(np.float32)
    stored = pack(f"top{k}", logits)
    assert stored.shape == (2, 3, width) and bytes_per_view(f"top{k}", classes) == width
    targets = through_codec(f"top{k}", logits)
    assert targets.logits is not None and targets.logits.shape == logits.shape
    assert np.array_equal(targets.hard, targets.logits.argmax(-1))
    assert pack(f"top{k}", logits[:0]).shape == (0, 3, width)


def test_stored_bytes_never_change_without_a_new_version():
    logits = np.array([[-1.5, 0.0, 3.14159, 3.14160, 8.0, -2.0, 0.5, 0.25, 0.125, 7.75]], np.float32)
    assert topk.VERSION == 1
    assert pack("top4", logits).tobytes().hex() == "2a55ddb878e0fac0004811187448"
    assert unpack("top4", pack("top4", logits), 10).tobytes().hex() == (
        "000068bf000068bf78e44e4078e44e4000000041000068bfe09c1c3f002fbc3e006ff43ddc4ff840"
    )


def test_the_rest_has_its_mass_at_the_temperature_of_the_rest():
    logits = peaked(200)
    found = topk.unpack(16, 1000, topk.pack(16, logits)).astype(np.float64)
    for row, back, ids in zip(logits.astype(np.float64), found, named(logits, 28), strict=True):
        rest = np.setdiff1d(np.arange(1000), ids)
        true, stored = (np.exp((x[rest] - x.max()) / REST_TAU).sum() for x in (row, back))
        assert stored == pytest.approx(true, rel=0.02)  # float16 spacing of a distance


def damaged(change) -> np.ndarray:
    """Three stored rows of top4 of 30 classes, the middle one with ``change`` applied to its bits before the scale."""
    stored = pack("top4", np.random.default_rng(0).normal(0, 3, (3, 30)).astype(np.float32))
    bits = np.unpackbits(stored[1, :-6])
    change(bits)
    stored[1, :-6] = np.packbits(bits)
    return stored


def test_rows_that_no_teacher_gave_are_refused_whatever_their_checksum():
    row = row_of(4, 30)
    assert (row.named, row.low, row.unary) == (7, 1, 21)
    assert unpack("top4", damaged(lambda bits: None), 30).shape == (3, 30)

    def unary(text: str):
        return lambda bits: bits.__setitem__(slice(0, 21), np.array([int(bit) for bit in text]))

    def equal(bits: np.ndarray) -> None:
        unary("110000000000000011111")(bits)  # classes 0 and 1 by their low bits, made equal
        bits[21:23] = 0

    wrong = [
        unary("1" * 6 + "0" * 15),
        unary("1" * 8 + "0" * 13),
        unary("0" * 21),
        lambda bits: bits.__setitem__(slice(0, 21), 1),
        equal,
    ]
    for change in wrong:
        with pytest.raises(IntegrityError, match="stored logits"):
            unpack("top4", damaged(change), 30)
    with pytest.raises(IntegrityError, match="ascend from 0 to 28"):  # 29 classes have the same row: class 29 is none
        unpack("top4", damaged(lambda bits: (unary("0" * 14 + "1" * 7)(bits), bits[21:28].fill(1))), 29)
    broken = damaged(lambda bits: None)
    broken[1, -2:] = 255
    with pytest.raises(IntegrityError, match="not finite"):
        unpack("top4", broken, 30)


def test_a_rest_that_is_out_of_float64s_reach_is_still_a_number():
    logits = np.full((1, 40), -60000.0, np.float32)
    logits[0, :7] = 60000.0
    found = topk.unpack(4, 40, topk.pack(4, logits))
    assert np.isfinite(found).all() and found.argmax() == 0 and found[0, 7:].max() < 0


def test_k_is_from_4_to_255_and_below_the_number_of_classes():
    assert [top_k(name) for name in ("top4", "top255", "top3", "top256", "top016", "top", "u8")] == [4, 255] + 5 * [
        None
    ]
    require_codec("top9", 10)
    with pytest.raises(UsageError, match="codec top10: K must be below the number of classes, found 10"):
        require_codec("top10", 10)
    with pytest.raises(UsageError, match="topK with K from 4 to 255, for example top16, found 'top3'"):
        require_codec("top3", 10)
