"""The GPU's kernels without a GPU: what NVRTC makes of them has no fused operation, and what is missing is a sentence."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.base import engine
from pipeline.base.engine import Unavailable
from pipeline.runtime.errors import UsageError
from pipeline.views import cuda, places
from pipeline.views.recipe import Recipe

APPROXIMATE = rb"sqrt\.approx|div\.(?:approx|full)\.f32|rcp\.approx|\.ftz"
FUSED = rb"\b(?:fma|mad)\.[a-z.]*f(?:32|64)|\b(?:add|sub|mul)\.f(?:32|64)|" + APPROXIMATE


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90", "compute_100", "compute_120"])
def test_no_operation_is_fused_or_rounded_otherwise(architecture: str) -> None:
    """ptxas never fuses an operation whose rounding is written down (PTX ISA, ``add`` and ``mul``)."""
    ptx = cuda.compiled(architecture, "PTX")
    assert re.findall(FUSED, ptx) == [] and ptx.count(b"mul.rn.f64") > 100
    assert all(f".entry {name}(".encode() in ptx for name in ("draw_views", "sum_blocks", "chain"))


def test_without_the_flag_operations_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "NVRTC_FLAGS", ("--std=c++17",))
    assert len(re.findall(FUSED, cuda.compiled("compute_90", "PTX"))) > 100


def test_an_unknown_gpu_is_a_sentence() -> None:
    with pytest.raises(engine.Unavailable, match=r"^NVRTC can't compile for sm_1: .*invalid value for --gpu-arch"):
        cuda.compiled("sm_1", "CUBIN")


@pytest.mark.parametrize("missing", ["compiler", "driver"])
def test_where_kernels_cannot_be_had_the_cpu_draws_and_that_is_said(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTIL_ENGINE", "cuda-on-cpu")
    cuda.open_kernels.cache_clear()
    recipe = Recipe(seed=len(missing), size=8)
    if missing == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        monkeypatch.setattr(cuda, "_OnCpu", lambda: cuda._loaded("libcuda.so.0"))
    assert places.drawer(recipe) is None and places.drawer(recipe) is None
    cuda.open_kernels.cache_clear()
    said = capsys.readouterr().out
    assert said.count("views are drawn by the kernels for CPUs: cpu can't draw them: ") == 1


def test_an_engine_that_needs_a_gpu_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_ENGINE", "cuda")
    monkeypatch.setenv("DISTIL_DEVICE", "cpu")
    with pytest.raises(UsageError, match=r"^DISTIL_ENGINE is cuda, but the device is cpu; unset it, or run where"):
        places.drawer(Recipe(seed=0, size=8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_what_the_cpu_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_ENGINE", "cuda")
    assert places.drawer(Recipe(seed=1, size=96)) is not None


def test_a_damaged_library_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    made = []

    def make() -> bytes:
        made.append(1)
        return b"machine code"

    path = cuda._kept("so", "g++", make)
    assert cuda._kept("so", "g++", make) == path and len(made) == 1
    for damaged in (b"", b"machine codf", b"machine code and more"):
        path.write_bytes(damaged)
        assert cuda._kept("so", "g++", make).read_bytes() == b"machine code"
    (tmp_path / f"{path.name}.sha256").unlink()  # as an earlier version left it
    cuda._kept("so", "g++", make)
    assert len(made) == 5
    path.unlink()
    path.mkdir()
    with pytest.raises(Unavailable, match="is a folder; remove it"):
        cuda._kept("so", "g++", make)
