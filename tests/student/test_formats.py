"""Exports for other programs name the classes, in the order of the outputs."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.student.export import export, load_student
from pipeline.student.formats import Kind, require_tools, write_format
from tests.support.students import CLASSES, config, make, recipe, views


@pytest.mark.parametrize("kind", ["onnx", "pt2", "hub-folder"])
def test_an_export_names_its_classes_inside_and_in_a_text_file(tmp_path: Path, kind: Kind) -> None:
    require_tools(kind)
    export(make(), config(), CLASSES, recipe(), tmp_path / "s")
    (tmp_path / "out").mkdir()
    name, _ = write_format(load_student(tmp_path / "s"), tmp_path / "s", kind, views(4), tmp_path / "out")
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == list(CLASSES)
    file = tmp_path / "out" / name
    if kind == "onnx":
        import onnxruntime

        found = json.loads(onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map["label_names"])
    elif kind == "pt2":
        extra = {"label_names": ""}
        torch.export.load(file, extra_files=extra)
        found = json.loads(extra["label_names"])
    else:
        found = json.loads(file.read_text())["label_names"]
    assert found == list(CLASSES)
