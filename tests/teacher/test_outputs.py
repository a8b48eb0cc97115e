"""A teacher of more classes than the data: real ImageNet weights answer for a few of their classes."""

import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

from pipeline.base.weights import read_state
from pipeline.data.images import STORED
from pipeline.data.shards import Sample
from pipeline.runtime.config import validate
from pipeline.runtime.errors import UsageError
from pipeline.teacher.config import NamedTeacher, TeacherConfig
from pipeline.teacher.model import create_teacher, require_fit
from pipeline.teacher.outputs import chosen_outputs, narrowed
from pipeline.views.validation import evaluation_views
from tests.support.lite0 import ARCH, lite0, photographs

# tabby, tiger cat, Egyptian cat, coffee mug, espresso, rocket's missile: by timm's order of ImageNet
ROWS = [281, 282, 285, 504, 967, 657]
WNIDS = ImageNetInfo().label_names()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> NamedTeacher:
    return lite0(tmp_path_factory.mktemp("lite0") / "model.safetensors")


def config(teacher: NamedTeacher, outputs: object) -> TeacherConfig:
    return validate(TeacherConfig, {**teacher.config.model_dump(), "outputs": outputs}, "teachers.t")


def test_sliced_logits_are_the_full_models_and_the_same_class_wins(teacher: NamedTeacher) -> None:
    asked = config(teacher, "by_name")
    classes = [WNIDS[row] for row in ROWS]
    full = create_teacher(asked, len(classes), pretrained=True, size=224)
    rows = chosen_outputs(asked, full, [], classes)
    assert rows == ROWS
    few = narrowed(asked, full, rows, 224).eval()
    samples = [Sample(str(i), 0, data) for i, data in enumerate(photographs())]
    images = evaluation_views(samples, teacher.recipe, STORED)
    with torch.inference_mode():
        whole, sliced = full.eval()(images), few(images)
    assert sliced.shape == (len(samples), 6)
    assert torch.allclose(sliced, whole[:, ROWS], atol=1e-4)
    assert torch.equal(sliced.argmax(1), whole[:, ROWS].argmax(1))
    cat = next(i for i, data in enumerate(photographs()) if Image.open(io.BytesIO(data)).size == (451, 300))
    assert WNIDS[ROWS[int(sliced[cat].argmax())]] in WNIDS[281:287]  # scikit-image's cat is a cat


def test_numbers_and_names_beside_the_weights_work_too(teacher: NamedTeacher) -> None:
    model = timm.create_model(ARCH, num_classes=4)
    names = ["zebra", "cat", "dog", "cat"]
    assert chosen_outputs(config(teacher, "by_name"), model, names, ["dog", "zebra"]) == [2, 0]
    assert chosen_outputs(config(teacher, [3, 1]), model, [], ["a", "b"]) == [3, 1]
    for outputs, classes, message in (
        (
            "by_name",
            ["dog", "horse", "cat"],
            r"2 of the data's 3 classes are the name of no output, or of several: 'horse', 'cat'",
        ),
        ([1, 1], ["a", "b"], "expected 2 different numbers from 0 to 3"),
        ([0, 4], ["a", "b"], "expected 2 different numbers from 0 to 3"),
        ([0], ["a", "b"], "expected 2 different numbers"),
    ):
        with pytest.raises(UsageError, match=message):
            chosen_outputs(config(teacher, outputs), model, names, classes)
    with pytest.raises(UsageError, match=r"by_name: 1 of the data's 1 classes .* it knows no names"):
        chosen_outputs(config(teacher, "by_name"), timm.create_model(ARCH, num_classes=5), [], ["a"])


def test_outputs_need_given_weights_and_spare_the_check_of_the_number(teacher: NamedTeacher) -> None:
    require_fit(config(teacher, "by_name"), 6, 224)
    with pytest.raises(UsageError, match="outputs: picks classes of given weights, and weights is null"):
        validate(TeacherConfig, {"recipe": "r", "arch": ARCH, "fit": {}, "outputs": [0, 1]}, "teachers.t")
    state = read_state(str(teacher.config.weights))
    assert len(state["classifier.weight"]) == 1000 and np.isfinite(state["classifier.weight"].numpy()).all()
