"""What a codec loses is measured on the teacher's answers, and shown at the temperatures of those who will learn from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from pipeline.cache.codec import bytes_per_view, codecs_for, through_codec
from pipeline.cache.fidelity import loss_of, next_codec, temperatures_of
from tests.support.logits import peaked

STUDENTS = """
students:
  a: {cache: c, distillation: soft, tau: 3.0}
  b: {cache: c, distillation: soft}
  c: {cache: c, distillation: hard, tau: 7.0}
  d: {cache: other, distillation: soft, tau: 5.0}
  e: {cache: c, distillation: soft, tau: x}
"""


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_a_loss_is_torchs_kl_of_the_stored_from_the_answers(tau: float) -> None:
    logits = peaked(200)
    kept = through_codec("top16", logits[None]).logits
    loss = loss_of("top16", logits, (tau,))
    assert kept is not None and loss is not None
    p, q = (torch.from_numpy(of).double().div(tau).log_softmax(-1) for of in (logits, kept[0]))
    assert loss.kl[tau] == pytest.approx(kl_div(q, p, reduction="batchmean", log_target=True).item())
    assert (loss.rows, loss.argmax) == (200, 1.0)


def test_a_codec_of_more_bytes_loses_less_and_the_next_one_is_found_by_its_bytes() -> None:
    logits, order = peaked(200), ["none"]
    while larger := next_codec(order[-1], 1000):
        order.append(larger)
    assert order == sorted(codecs_for(1000), key=lambda codec: bytes_per_view(codec, 1000))
    assert next_codec("top20", 1000) == "top32"
    found = [loss_of(codec, logits, (1.0,)) for codec in order]
    assert found[0] is None
    nats = [loss.kl[1.0] for loss in found[1:] if loss is not None]
    assert nats == sorted(nats, reverse=True)


def test_an_argmax_that_rounding_moves_is_counted() -> None:
    ties = np.tile(np.float32([0.0, 5.0001, 5.0002, 1.0]), (10, 1))
    loss = loss_of("u8", ties, (1.0,))
    assert loss is not None and loss.argmax == 0.0


def test_temperatures_are_one_and_those_of_the_soft_students_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(STUDENTS)
    assert temperatures_of(tmp_path / "params.yaml", "c") == (1.0, 3.0)
    assert temperatures_of(tmp_path / "params.yaml", "nobody's") == (1.0,)
