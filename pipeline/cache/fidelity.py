"""What topK loses of a teacher, for a warning before a run: KL(teacher || stored) by K and temperature, in nats."""

import numpy as np

from pipeline.cache.codec import top_k

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
# A simulated peaked teacher of 1,000 classes (python -m bench.measure.codecs --figures); a smoothed one loses less from tau 2 on.
_KL = {
    4: (0.058, 0.14, 0.21, 0.11, 0.018, 0.0035),
    8: (0.044, 0.064, 0.065, 0.041, 0.010, 0.0025),
    16: (0.034, 0.053, 0.051, 0.028, 0.0082, 0.0021),
    32: (0.024, 0.042, 0.041, 0.024, 0.0070, 0.0018),
    64: (0.014, 0.030, 0.031, 0.019, 0.0056, 0.0015),
    128: (0.0068, 0.017, 0.019, 0.012, 0.0038, 0.0010),
    255: (0.0020, 0.0068, 0.0082, 0.0056, 0.0019, 0.00051),
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
