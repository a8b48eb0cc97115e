"""Configurations of teachers that are refused."""

import pytest

from pipeline.runtime.config import validate
from pipeline.runtime.errors import UsageError
from pipeline.teacher.config import TeacherConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": [0.2, 0.0, 0.2]}, "above 0"),
        ({"precision": "tf32"}, "teacher.precision"),
        ({"fit": None}, "null needs a section fit"),
        ({"student": "s", "weights": "timm"}, "both give weights"),
        ({"initial_key": "model"}, "initial_key: model picks weights where initial names none"),
        ({"weights_key": "model", "initial": "a.pth"}, "weights_key: model picks weights where weights names none"),
        ({"initial": "a.pth", "weights": "timm"}, "is for a teacher that is fitted here"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        validate(TeacherConfig, {"recipe": "r", "fit": {}, "arch": "test_byobnet", **fields}, "teacher")
