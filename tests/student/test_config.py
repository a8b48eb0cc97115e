"""Configurations of students: refused by key, and where their targets come from."""

import pytest

from pipeline.runtime.errors import UsageError
from tests.support.students import DISTILLED, TWIN, config


@pytest.mark.parametrize(
    ("arch", "fields", "message"),
    [
        (DISTILLED, {"distillation": "none"}, "another one neither"),
        (DISTILLED, {"cache": "none"}, "a distilled student names a cache or a teacher"),
        (DISTILLED, {"token": False}, "has a distillation token, found token: False"),
        (TWIN, {"token": True, "distillation": "hard", "teacher": "t"}, "has no distillation token"),
        (TWIN, {"alpha": 1.5}, r"students\.a\.alpha"),
        (TWIN, {"tau": 0.0}, r"students\.a\.tau"),
        (TWIN, {"tau": "1e-3"}, r"tau: .*found '1e-3'"),
        (TWIN, {"arch_args": {"img_size": {"height": 32}}}, r"students\.a\.arch_args\.img_size"),
        (TWIN, {"initial": "timm", "parent": "p"}, "both give weights"),
        (TWIN, {"codec": "f16"}, "is for a live teacher without a cache"),
    ],
)
def test_bad_configs_are_refused(arch, fields, message):
    with pytest.raises(UsageError, match=message):
        config(arch, **fields)


def test_where_targets_come_from_follows_from_the_names():
    names = {"cached": ("c", "none"), "live": ("none", "t"), "auto": ("c", "t")}
    for supervision, (cache, teacher) in names.items():
        assert config(cache=cache, teacher=teacher).supervision == supervision
    assert config(TWIN).supervision == "none"


def test_hard_without_the_token_is_a_config():
    assert config(TWIN, distillation="hard", cache="c", teacher="t").token is False
