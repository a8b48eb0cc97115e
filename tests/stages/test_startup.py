"""What a stage imports before it works: torch, torchvision and timm take seconds, and only where there is a model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cache.layout import Layout
from pipeline.runtime.code import ROOT
from stages.configure import main as configure
from tests.support.fake_teacher import filled
from tests.support.photos import make_photo_folder

HEAVY = {"torch", "torchvision", "timm"}
LIGHT = """
import importlib, sys
for module, *arguments in {commands!r}:
    try:
        importlib.import_module("stages." + module).main(arguments)
    except SystemExit as end:
        assert not end.code, (module, end.code)
    print("after", module, sorted({heavy!r} & set(sys.modules)))
"""


def heavy_imports(*commands: tuple[str, ...], where: Path = Path(ROOT)) -> list[str]:
    """``after stage [libraries that were imported when it ended]``, for stages that one process runs in turn."""
    code = LIGHT.format(commands=commands, heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DISTIL_POOL": "pool", "DATA_ROOT": "photos"}
    done = subprocess.run([sys.executable, "-c", code], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("after ")]


def test_no_help_imports_torch() -> None:
    names = [path.stem for path in (ROOT / "stages").glob("[a-z]*.py")]
    assert heavy_imports(*((name, "--help") for name in names)) == [f"after {name} []" for name in names]


def test_what_needs_no_model_starts_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photo_folder(tmp_path / "photos", per_class=3)
    (tmp_path / "summary.json").write_text('{"teachers": {}, "students": {}}')
    cache = filled(tmp_path / "somewhere", Layout(64, 10, 32, 16, 3, "u8"), 3).path
    small = ["data=folder", "data.shard_size=16", "data.block=8", "--configs", str(ROOT / "configs")]
    with monkeypatch.context() as patch:  # configure builds every model, and remembers that it did
        patch.chdir(tmp_path)
        patch.setenv("DISTIL_POOL", "pool")
        patch.setenv("DATA_ROOT", "photos")
        for arguments in (small, ["--check"]):  # the second one with the classes of the images
            assert CliRunner().invoke(configure, arguments).exit_code == 0
    light = [
        ("configure", *small),
        ("configure", "--check"),
        ("index",),
        ("shard",),
        ("report", "--show", "summary.json"),
        ("verify", str(cache)),
    ]
    assert heavy_imports(*light, where=tmp_path) == [f"after {name} []" for name, *_ in light]
