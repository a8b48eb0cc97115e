"""What a trained student says of a person's own images, by the very views that it was evaluated on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.images import MAX_BYTES, Rule, Undecodable, prepare
from pipeline.data.listing import named_as_image
from pipeline.data.shards import Sample
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.progress import progress
from pipeline.student.export import label_names, recipe_of
from pipeline.student.model import Student
from pipeline.views.recipe import Recipe
from pipeline.views.validation import evaluation_views

_BATCH = 32


@dataclass(frozen=True)
class Said:
    """Of one file: by head the classes with their probabilities, the likeliest first; or the reason why there are none."""

    path: Path
    heads: dict[str, list[tuple[str, float]]]
    reason: str = ""


def files_of(path: Path) -> list[Path]:
    """The images that ``path`` names: the file itself, or those of a folder and of the folders in it, sorted, as their
    names say. Raises UsageError where there are none."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if named_as_image(file.name) and file.is_file())
    if not found:
        raise UsageError(
            f"{path}: no such image, and no folder with images; expected a file or a folder of JPEG, PNG or WebP"
        )
    return found


def predict(student: Student, directory: Path, files: list[Path], rule: Rule, most: int = 5) -> Iterator[Said]:
    """The answers to ``files``, in their order; a file that is no image gives a reason and stops nothing. ``directory`` is
    where ``student`` was loaded from. Raises UsageError or IntegrityError for its description."""
    device, names, recipe = pick_device(), label_names(directory), recipe_of(directory)
    student.to(device).eval()
    with progress("predict", len(files), "images") as tick:
        for first in range(0, len(files), _BATCH):
            some = files[first : first + _BATCH]
            views = [_view(path, recipe, rule) for path in some]
            images = [view for view in views if isinstance(view, Tensor)]
            answers = iter(_answers(student, torch.stack(images).to(device), names, most) if images else [])
            for path, view in zip(some, views):
                yield Said(path, next(answers)) if isinstance(view, Tensor) else Said(path, {}, view)
            tick(len(some))


def _view(path: Path, recipe: Recipe, rule: Rule) -> Tensor | str:
    """The finished evaluation view of a file, float32 (3, R, R); else why there is none."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            return f"{size} bytes, an image file has at most {MAX_BYTES}"
        data = prepare(path.read_bytes(), path.name, rule).data
        return evaluation_views([Sample(path.name, 0, data)], recipe, rule)[0]
    except Undecodable as error:
        return error.reason
    except OSError as error:
        return str(error.strerror or error)


@torch.inference_mode()
def _answers(
    student: Student, images: Tensor, names: tuple[str, ...], most: int
) -> list[dict[str, list[tuple[str, float]]]]:
    """By image and head the likeliest classes; the fused answer's probabilities are the mean of both heads'."""
    heads = student(images)
    shares = {"class": heads.class_logits.float().softmax(1)}
    if heads.distillation_logits is not None:
        shares["distillation"] = heads.distillation_logits.float().softmax(1)
        shares["fused"] = heads.fused() / 2
    found: list[dict[str, list[tuple[str, float]]]] = [{} for _ in images]
    for head, of in shares.items():
        best = of.topk(min(most, of.shape[1]))
        for row, (values, classes) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
            found[row][head] = [(names[c], value) for c, value in zip(classes, values)]
    return found


def as_json(name: str, said: list[Said]) -> dict[str, Any]:
    """``images`` with their answers by head, and ``unusable`` files with their reasons."""
    return {
        "student": name,
        "images": [
            {
                "path": str(of.path),
                "heads": {h: [{"class": c, "probability": p} for c, p in best] for h, best in of.heads.items()},
            }
            for of in said
            if of.heads
        ],
        "unusable": [{"path": str(of.path), "reason": of.reason} for of in said if not of.heads],
    }
