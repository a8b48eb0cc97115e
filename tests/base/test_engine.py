"""Who draws is the machine's matter."""

import os
import subprocess
import sys

import pytest

from pipeline.base.engine import kernels as kernels_draw
from pipeline.runtime.errors import UsageError


def test_who_draws_is_the_machines_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTIL_ENGINE", raising=False)
    assert kernels_draw()
    monkeypatch.setenv("DISTIL_ENGINE", "pil")
    assert not kernels_draw()
    monkeypatch.setenv("DISTIL_ENGINE", "cuda")
    assert kernels_draw()  # whatever the GPU leaves to the CPU
    monkeypatch.setenv("DISTIL_ENGINE", "numba")
    with pytest.raises(UsageError, match="expected kernels, pil or cuda, found 'numba'"):
        kernels_draw()
    code = "import sys; sys.modules['numba'] = None\nfrom pipeline.base.engine import kernels\nprint(kernels())"
    environment = {name: value for name, value in os.environ.items() if name != "DISTIL_ENGINE"}
    without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert without.stdout == "False\n"
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment | {"DISTIL_ENGINE": "kernels"}
    )
    assert "numba can't be imported" in asked.stderr
