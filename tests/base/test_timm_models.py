"""Models that timm does not know, or can't build, are refused with a way out."""

import json
from pathlib import Path

import pytest

from pipeline.base.timm_models import create_model, from_directory, require_known
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


@pytest.mark.parametrize("args", [{"depth": 10**9}, {"embed_dim": 10**9}, {"depths": [2, 2, 10**9, 2]}, {"x": 1e300}])
def test_numbers_that_no_model_has_are_refused_before_it_is_built(args, tmp_path: Path):
    with pytest.raises(UsageError, match="the largest number allowed is"):
        create_model(TWIN, args, 10)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": TWIN, "model_args": args}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"config.json: model_args: .*the largest number allowed is"):
        from_directory(tmp_path)
