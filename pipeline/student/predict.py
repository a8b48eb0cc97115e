"""What a trained student says of a person's own images, by the very views that it was evaluated on."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.images import MAX_BYTES, Rule, Undecodable, prepare
from pipeline.data.listing import File, is_clutter, named_as_image, quarantine_reason
from pipeline.data.shards import Sample
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.progress import progress
from pipeline.runtime.text import few
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


def files_of(path: Path) -> tuple[list[Path], list[Said]]:
    """The images that ``path`` names, and what is passed over with the reason: the file itself, or what stands in a folder and
    in the folders in it, sorted, by its name. Raises UsageError where there are no images."""
    if path.is_file():
        return [path], []
    if re.match(r"[a-z][a-z0-9+.-]*:/", str(path), re.IGNORECASE) and not path.exists():
        raise UsageError(f"{path}: a URL; download the image, and name the file")
    found, aside = list[Path](), list[Said]()
    for folder, inner, names in os.walk(path):
        here = Path(folder)
        aside += [
            Said(here / name, {}, "a hidden folder, or a link to one") for name in sorted(inner) if _left(here, name)
        ]
        inner[:] = sorted(name for name in inner if not _left(here, name))
        found += [here / name for name in sorted(names) if named_as_image(name)]
        aside += [Said(here / name, {}, _not_named(here / name)) for name in sorted(names) if not named_as_image(name)]
    if not found:
        raise UsageError(
            f"{path}: no such image, and no folder with images; expected a file or a folder of JPEG, PNG or WebP"
            f"{told(aside)}"
        )
    return sorted(found), aside


def _left(folder: Path, name: str) -> bool:
    return is_clutter(name) or (folder / name).is_symlink()


def _not_named(path: Path) -> str:
    if _unfit(path):
        return _unfit(path)
    with suppress(OSError), path.open("rb") as file:
        start = file.read(3)
        kind = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png"}.get(start)
        if kind is not None:
            return f"an image without its suffix; rename it to {path.name}.{kind}"
    return "not named as an image"


def _unfit(path: Path) -> str:
    """Why a file is not read, as far as its name, kind and size tell; "" if nothing does."""
    try:
        status = path.stat()
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else str(error.strerror)
    if not stat.S_ISREG(status.st_mode):
        return "a pipe, socket or device"
    if status.st_size > MAX_BYTES:
        return f"{status.st_size} bytes, an image file has at most {MAX_BYTES}"
    return quarantine_reason(File(path.name, status.st_size, "")) or ""


def told(aside: list[Said]) -> str:
    """What was passed over, in one line after a sentence; "" if nothing was."""
    shown = few([f"{of.path} ({of.reason})" for of in aside], 20)
    return f"; {len(aside)} passed over: {shown}" if aside else ""


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
        if reason := _unfit(path):
            return reason
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


def as_json(name: str, said: list[Said], aside: list[Said]) -> dict[str, Any]:
    """``images`` with their answers by head, and ``unusable`` and ``passed_over`` files with their reasons."""
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
        "passed_over": [{"path": str(of.path), "reason": of.reason} for of in aside],
    }
