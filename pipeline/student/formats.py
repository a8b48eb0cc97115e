"""A trained student for other programs: ONNX, torch.export (pt2) or a folder for timm and the hub.

Each is checked against the student on real images before it counts: a file that answers otherwise is refused.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.base import timm_models
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.student.export import label_names
from pipeline.student.model import Student

Kind = Literal["onnx", "pt2", "hub-folder"]
TOLERANCE = 1e-5  # largest difference of a probability
_OPSET = 20
_NEEDS = ("onnx", "onnxscript", "onnxruntime")


class Answering(nn.Module):
    """A student that answers with named tensors: normalised images float (B, 3, R, R) -> ``probabilities`` (B, C), the
    fused ones where it has two heads, then the logits of each head."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    @property
    def names(self) -> list[str]:
        return ["probabilities", "class_logits", *(["distillation_logits"] if self.student.distilled else [])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        heads = self.student(images)
        if heads.distillation_logits is None:
            return heads.fused(), heads.class_logits
        return heads.fused() / 2, heads.class_logits, heads.distillation_logits


def require_tools(kind: Kind) -> None:
    """Raises UsageError where this environment lacks what ``kind`` needs."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None] if kind == "onnx" else []
    if missing:
        raise UsageError(
            f"--to onnx: {', '.join(missing)} is not installed; install the group: uv sync --group export (or pip install "
            f"{' '.join(_NEEDS)})"
        )


def write_format(student: Student, directory: Path, kind: Kind, images: Tensor, out: Path) -> tuple[str, float]:
    """Writes the student, loaded from ``directory``, to the directory ``out``; the file's name, and the largest difference
    of its probabilities (for hub-folder: logits) from the student's on ``images`` float32 (n, 3, R, R).

    Raises UsageError for missing tools, IntegrityError where the difference is above TOLERANCE (hub-folder: any).
    The class names stand beside it in ``labels.txt``, and as a JSON list under ``label_names`` in ONNX's metadata and in
    pt2's extra files.
    """
    require_tools(kind)
    answering = Answering(student.cpu().eval()).eval()
    with torch.inference_mode():
        expected = answering(images)
    names = label_names(directory)
    (out / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if kind == "hub-folder":
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(directory / name, out / name)
        with torch.inference_mode():
            found = Answering(Student(timm_models.from_directory(out))).eval()(images)
        worst = max(float((one - other).abs().max()) for one, other in zip(found, expected))
        _require(worst <= 0.0, out, worst, 0.0)
        return "config.json", worst
    file = out / ("student.onnx" if kind == "onnx" else "student.pt2")
    answer = (_write_onnx if kind == "onnx" else _write_pt2)(answering, images, names, file)
    # The whole of the images and a smaller batch: the batch's size is free.
    worst = max(float((answer(images[:some]) - expected[0][:some]).abs().max()) for some in (len(images), 3))
    _require(worst <= TOLERANCE, file, worst, TOLERANCE)
    return file.name, worst


def _require(right: bool, file: Path, worst: float, most: float) -> None:
    if not right:
        raise IntegrityError(
            f"{file}: answers that differ by {worst:.2g} from the student's, expected at most {most:.2g}"
        )


def _exported(answering: Answering, images: Tensor) -> Any:
    return torch.export.export(answering, (images[:2],), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def _write_pt2(answering: Answering, images: Tensor, names: tuple[str, ...], file: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(_exported(answering, images), file, extra_files={"label_names": json.dumps(names)})
    program = torch.export.load(file).module()
    return lambda some: program(some)[0].detach()


def _write_onnx(answering: Answering, images: Tensor, names: tuple[str, ...], file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    program: Any = torch.onnx.export(
        answering,
        (images[:2],),
        input_names=["images"],
        output_names=answering.names,
        opset_version=_OPSET,
        dynamo=True,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )
    program.model.metadata_props["label_names"] = json.dumps(names)
    program.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda some: torch.from_numpy(session.run(["probabilities"], {"images": some.numpy()})[0])
