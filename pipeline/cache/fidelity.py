"""What topK loses of a teacher, for a warning before a run: KL(teacher || stored) by K and temperature, in nats."""

import numpy as np

from pipeline.cache.codec import top_k

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
# A simulated peaked teacher of 1,000 classes (python -m bench.codecs --figures); a smoothed one loses less from tau 2 on.
_KL = {
    4: (0.054, 0.11, 0.16, 0.093, 0.016, 0.0033),
    8: (0.043, 0.062, 0.058, 0.034, 0.0093, 0.0023),
    16: (0.032, 0.052, 0.049, 0.028, 0.0080, 0.0021),
    32: (0.022, 0.040, 0.040, 0.023, 0.0068, 0.0018),
    64: (0.013, 0.028, 0.029, 0.018, 0.0053, 0.0014),
    128: (0.0063, 0.016, 0.018, 0.011, 0.0036, 0.00096),
    255: (0.0023, 0.0067, 0.0079, 0.0052, 0.0017, 0.00047),
}
KL_BOUND = 0.055  # ten float16 probabilities with a uniform rest, TinyViT's targets, lose .048 of that teacher at tau 1


def expected_kl(codec: str, tau: float) -> float:
    """The KL of a codec at a temperature, between the measured ones by its logarithm; 0 for u8 and f16 (below 1e-4)."""
    k = top_k(codec)
    if k is None:
        return 0.0
    measured = _KL[max(known for known in _KL if known <= k)]
    return float(np.interp(np.log(tau), np.log(TEMPERATURES), measured))


def warning(codec: str, tau: float) -> str | None:
    """A sentence if soft distillation at temperature ``tau`` from this codec loses more than ``KL_BOUND``."""
    loss = expected_kl(codec, tau)
    if loss <= KL_BOUND:
        return None
    better = next((f"top{k}" for k in _KL if expected_kl(f"top{k}", tau) <= KL_BOUND), "u8")
    return (
        f"codec {codec} loses about {loss:.2g} nats at tau = {tau:g} (KL of a simulated peaked teacher of 1,000 classes; "
        f"above {KL_BOUND:g} it is worth more bytes): {better} loses {expected_kl(better, tau):.2g}, u8 next to nothing"
    )
