"""A teacher of more classes than the data: which outputs of its weights are the data's classes, and a model of those alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from pipeline.base import timm_models
from pipeline.base.weights import load_strict
from pipeline.runtime.errors import UsageError
from pipeline.runtime.text import few
from pipeline.teacher.config import TeacherConfig


def chosen_outputs(config: TeacherConfig, model: Any, names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The output of ``model``, timm's, for each of the data's ``classes``; ``names``: of all its outputs, none where nothing
    beside the weights says them. Raises UsageError for a class that it does not know."""
    count, asked = model.num_classes, config.outputs
    if asked == "by_name":
        return _by_name(config.arch, _known_names(model, names, classes), classes)
    rows = list(asked or range(count))
    if len(rows) != len(classes) or len(set(rows)) != len(rows) or not all(0 <= row < count for row in rows):
        raise UsageError(
            f"teacher {config.arch}: outputs: expected {len(classes)} different numbers from 0 to {count - 1}, one for each "
            f"class of the data, found {len(rows)}: {few([str(row) for row in rows], 5)}"
        )
    return rows


def _known_names(model: Any, names: Sequence[str], classes: Sequence[str]) -> Sequence[str]:
    """``names``, or the wnids of the part of ImageNet that timm knows by the number of outputs, whichever has more of the
    data's classes."""
    subset = infer_imagenet_subset(model)
    wnids = ImageNetInfo(subset).label_names() if subset is not None else []
    listed = [of for of in (names, wnids) if len(of) == model.num_classes]
    return max(listed, key=lambda of: len(set(classes) & set(of)), default=[])


def _by_name(arch: str, names: Sequence[str], classes: Sequence[str]) -> list[int]:
    count, place = Counter(names), {name: row for row, name in enumerate(names)}
    unknown = [name for name in classes if count[name] != 1]
    if unknown:
        of = f"knows {len(names)} names, first {few([repr(name) for name in names], 2)}" if names else "knows no names"
        raise UsageError(
            f"teacher {arch}: outputs: by_name: {len(unknown)} of the data's {len(classes)} classes are the name of "
            f"no output, or of several: {few([repr(name) for name in unknown], 5)}; it {of}; name the class folders so, put "
            f"labels.txt beside the weights, or give outputs as numbers"
        )
    return [place[name] for name in classes]


def narrowed(config: TeacherConfig, model: Any, rows: Sequence[int], size: int) -> Any:
    """A new model with ``model``'s weights, and of its classifier the ``rows`` alone, so that its logits are those."""
    arch_args = timm_models.sized(config.arch, config.arch_args, size)
    made = timm_models.create_model(config.arch, arch_args, len(rows))
    beginnings = timm_models.classifiers_of(model)
    state = {
        name: value[list(rows)] if name.startswith(beginnings) and len(value) == model.num_classes else value
        for name, value in model.state_dict().items()
    }
    load_strict(made, state, f"teacher {config.arch}: outputs")
    return made
