"""What is installed, beside the project's own pins."""

import re
import tomllib
from pathlib import Path

import pytest

from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import UsageError
from pipeline.runtime.libraries import lowest, require_libraries


def test_a_timm_below_the_pin_is_refused_and_other_libraries_are_said(tmp_path: Path, capsys) -> None:
    pins = tmp_path / "pyproject.toml"
    pins.write_text('[project]\ndependencies = ["timm>=1.0.1,<2", "numpy>=99.1", "torch>=2", "nothing-such>=3"]\n')
    require_libraries(pins)
    assert re.search(r"warning: found numpy \S+, the project needs at least 99\.1", capsys.readouterr().out)
    (tmp_path / "later.toml").write_text('[project]\ndependencies = ["timm >= 99.0,<100"]\n')
    with pytest.raises(UsageError, match=r"found timm \S+, the project needs at least 99\.0: it makes other models"):
        require_libraries(tmp_path / "later.toml")
    require_libraries(tmp_path / "none.toml")  # a copy of the code without the file
    assert lowest(tomllib.loads((ROOT / "pyproject.toml").read_text()))["timm"] == "1.0.31"
