"""RandAugment, AutoAugment and colour jitter with every decision as data.

An op is a name of timm's and its plain arguments, which can be stored, printed and replayed. timm itself parses policies;
they are drawn with timm's distributions (``timm.data.auto_augment``), but from a keyed stream, and timm's own op functions
make the pixels from those arguments.
"""

import importlib.util
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.views.chance import Draws

Op = tuple[str, tuple[float, ...]]  # whole numbers stay ints: Pillow's look-up tables need them

_RAND = re.compile(r"rand(-(m\d+|n\d+|p\d*\.?\d+|mstd\d*\.?\d+|mmax\d+|inc[01]|t(weights|3aw|3a)))*")
_AUTO = re.compile(r"(v0r|v0|originalr|original|3a)(-mstd\d*\.?\d+)?")
_MOST_LAYERS = 32
_DECIMALS = 6  # of a magnitude: its logarithm and cosine may differ by one ulp between two C libraries


def _load_timm_ops() -> Any:
    """The module ``timm.data.auto_augment`` alone: the package around it costs every process 5 s of imports."""
    package = importlib.util.find_spec("timm")
    assert package is not None and package.origin is not None, "timm is a dependency"
    path = Path(package.origin).with_name("data") / "auto_augment.py"
    spec = importlib.util.spec_from_file_location("timm_data_auto_augment", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


timm_ops = _load_timm_ops()


@dataclass(frozen=True)
class PolicyOp:
    """One op of a policy: applied with ``probability`` at ``magnitude`` (0 to 10) on timm's scale."""

    name: str
    probability: float
    magnitude: float


@dataclass(frozen=True)
class Policy:
    """A parsed policy. RandAugment draws ``layers`` of ``groups``, with replacement unless there are weights;
    AutoAugment is one layer of sub-policies. ``std`` may be infinite: uniform in [0, magnitude]."""

    groups: tuple[tuple[PolicyOp, ...], ...]
    layers: int
    weights: tuple[float, ...] | None
    std: float
    maximum: float


@lru_cache
def parse(text: str) -> Policy | None:
    """A policy string of timm's, e.g. ``rand-m9-mstd0.5-inc1`` or ``v0``; "" is none.

    Raises ValueError for anything that timm would skip silently (``inc`` without a digit) or cannot replay.
    """
    if not text:
        return None
    sections = re.findall(r"-(t|[a-z]+)", text)
    if not (_RAND.fullmatch(text) or _AUTO.fullmatch(text)) or len(set(sections)) < len(sections):
        raise ValueError(
            "unknown policy; known are RandAugment, rand[-mM][-nN][-pP][-mstdS][-mmaxM][-inc1]"
            "[-tweights|-t3a|-t3aw], and AutoAugment, "
            "v0, v0r, original, originalr or 3a, with or without -mstdS"
        )
    # fill and interpolation are draw's; only timm's reading of the string counts here
    unused = {"img_mean": (0, 0, 0)}
    if text.startswith("rand"):
        made = timm_ops.rand_augment_transform(text, dict(unused))
        groups, layers, weights = [[op] for op in made.ops], made.num_layers, made.choice_weights
    else:
        groups, layers, weights = timm_ops.auto_augment_transform(text, dict(unused)).policy, 1, None
    if layers > _MOST_LAYERS:
        raise ValueError(f"{layers} layers; expected at most {_MOST_LAYERS}")
    if weights is not None and not 0 < layers <= len(groups):
        raise ValueError(f"{layers} layers cannot be drawn without replacement from {len(groups)} ops")
    first = groups[0][0]
    return Policy(
        groups=tuple(tuple(PolicyOp(op.name, op.prob, op.magnitude) for op in group) for group in groups),
        layers=layers,
        weights=None if weights is None else tuple(float(weight) for weight in weights),
        std=float(first.magnitude_std),
        maximum=float(first.magnitude_max or 10),
    )


def choose_ops(policy: Policy, draws: Draws) -> tuple[Op, ...]:
    """The ops of one view with their arguments (timm's RandAugment, AutoAugment and AugmentOp)."""
    chosen: list[Op] = []
    for index in _groups(policy, draws):
        for step in policy.groups[index]:
            if step.probability >= 1.0 or draws.uniform() < step.probability:
                chosen.append(_choose_op(step, policy, draws))
    return tuple(chosen)


def _groups(policy: Policy, draws: Draws) -> list[int]:
    if policy.weights is None:
        return [draws.below(len(policy.groups)) for _ in range(policy.layers)]
    left = dict(enumerate(policy.weights))  # one after the other is what numpy's choice(replace=False, p=) does
    chosen = []
    for _ in range(policy.layers):
        point = draws.uniform(0.0, sum(left.values()))
        for index in left:
            point -= left[index]
            if point < 0.0:
                break
        del left[index]
        chosen.append(index)
    return chosen


def _choose_op(step: PolicyOp, policy: Policy, draws: Draws) -> Op:
    name = step.name
    if timm_ops.LEVEL_TO_ARG[name] is None:
        return name, ()
    level = step.magnitude
    if policy.std == math.inf:
        level = draws.uniform(0.0, level)
    elif policy.std > 0.0:
        level = draws.normal(level, policy.std)
    level = round(max(0.0, min(level, policy.maximum)), _DECIMALS)
    if name == "GaussianBlurRand":  # timm draws the radius inside the op; here it is one more decision
        return "GaussianBlur", (draws.uniform(0.1, 2.0 * min(1.0, level / 10.0)),)
    sign = -1.0 if name in _SIGNED and draws.uniform() < 0.5 else 1.0
    return name, arguments(name, level, sign)


def choose_jitter(strength: float, draws: Draws) -> tuple[Op, ...]:
    """torchvision's ColorJitter(s, s, s): three factors in [max(0, 1-s), 1+s], in random order."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    ops: list[Op] = [(name, (draws.uniform(low, high),)) for name in ("Brightness", "Contrast", "Color")]
    return tuple(ops.pop(draws.below(left)) for left in (3, 2, 1))


def apply(image: Image.Image, op: Op, fill: tuple[int, ...], resample: Image.Resampling) -> Image.Image:
    """``op`` by timm's own function; pixels from outside the picture have the colour ``fill``."""
    name, arguments = op
    if name.startswith("Posterize") and arguments[0] <= 0:
        # Pillow <= 12 gives black for 0 bits, and so DeiT trained; Pillow 13 raises ValueError
        return Image.new("RGB", image.size)
    return timm_ops.NAME_TO_OP[name](image, *arguments, fillcolor=fill, resample=resample)


# timm's LEVEL_TO_ARG with the coin (sign) as an argument, for the ops where timm's own functions flip it with `random`
_SIGNED: dict[str, Callable[[float, float], float]] = {
    "Rotate": lambda level, sign: sign * (level / 10.0 * 30.0),
    **dict.fromkeys(("ShearX", "ShearY"), lambda level, sign: sign * (level / 10.0 * 0.3)),
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), lambda level, sign: sign * (level / 10.0 * 0.45)),
    **dict.fromkeys(
        ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
        lambda level, sign: max(0.1, 1.0 + sign * (level / 10.0 * 0.9)),
    ),
}
_UNSIGNED = (
    "AutoContrast Equalize Invert Posterize PosterizeIncreasing PosterizeOriginal Solarize SolarizeIncreasing "
    "SolarizeAdd Color Contrast Brightness Sharpness Desaturate GaussianBlur"
)
EVERY_OP = tuple(sorted([*_SIGNED, *_UNSIGNED.split()]))  # what the canary draws


def arguments(name: str, level: float, sign: float) -> tuple[float, ...]:
    """The arguments that timm's ``LEVEL_TO_ARG`` gives for a level (0 to 10) when its coin shows ``sign``."""
    if name in _SIGNED:
        return (_SIGNED[name](level, sign),)
    to_arguments = timm_ops.LEVEL_TO_ARG[name]
    return () if to_arguments is None else to_arguments(level, {})
