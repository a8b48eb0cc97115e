"""What a stage imports before it works: torch, torchvision and timm take seconds, and only where there is a model."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.cache.layout import Layout
from pipeline.runtime.code import ROOT
from tests.support.fake_teacher import filled
from tests.support.photos import make_photo_folder

LIGHT = """
import sys, runpy
sys.argv = {argv!r}
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(sorted({{"torch", "torchvision", "timm"}} & set(sys.modules)))
"""


def imported(module: str, *arguments: str, where: Path | None = None) -> str:
    """Which heavy libraries a stage has imported when it ends."""
    code = LIGHT.format(module=module, argv=[module, *arguments])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DISTIL_POOL": "pool", "DATA_ROOT": "photos"}
    done = subprocess.run([sys.executable, "-c", code], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_no_help_imports_torch() -> None:
    code = "import sys, importlib, click\n"
    code += f"for name in {[path.stem for path in (ROOT / 'stages').glob('[a-z]*.py')]}:\n"
    code += "    try: importlib.import_module('stages.' + name).main(['--help'])\n    except SystemExit: pass\n"
    code += "print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_what_needs_no_model_starts_without_torch(tmp_path: Path) -> None:
    make_photo_folder(tmp_path / "photos", per_class=3)
    small = ["data=folder", "data.shard_size=16", "data.block=8", "--configs", str(ROOT / "configs")]
    assert imported("stages.configure", *small, where=tmp_path) != "[]"  # builds every model
    assert imported("stages.configure", *small, where=tmp_path) == "[]"  # which is remembered
    assert imported("stages.configure", "--check", where=tmp_path) != "[]"  # now with the classes of the images
    assert imported("stages.configure", "--check", where=tmp_path) == "[]"
    assert imported("stages.index", where=tmp_path) == "[]"
    assert imported("stages.shard", where=tmp_path) == "[]"
    (tmp_path / "summary.json").write_text('{"teachers": {}, "students": {}}')
    assert imported("stages.report", "--show", "summary.json", where=tmp_path) == "[]"
    cache = filled(tmp_path / "somewhere", Layout(64, 10, 32, 16, 3, "u8"), 3).path
    assert imported("stages.verify", str(cache), where=tmp_path) == "[]"
