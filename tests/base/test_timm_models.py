"""Models that timm does not know, or can't build, are refused with a way out."""

import pytest

from pipeline.base.timm_models import require_known
from pipeline.runtime.errors import UsageError
from tests.support.students import TWIN


@pytest.mark.parametrize(
    ("arch", "args", "weights", "message"),
    [
        ("deit_tinny_patch16_224", {}, None, "did you mean deit_tiny_patch16_224"),
        (TWIN, {"drop_path_rate": 0.1}, None, "drop_path_rate is set by the pipeline"),
        (TWIN, {}, "timm", "need a name with its tag"),
    ],
)
def test_models_that_timm_does_not_know_are_refused(arch, args, weights, message):
    with pytest.raises(UsageError, match=message):
        require_known(arch, args, weights)
