"""Machine code of the kernels: where it is kept, and that no worker compiles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base import compiled
from pipeline.views.draw import compile_kernels


def test_machine_code_goes_to_a_place_of_this_user_even_where_home_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, pipeline.data.resize; print(os.environ['NUMBA_CACHE_DIR'])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    homes = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    for home, start in ((str(tmp_path), tmp_path / ".cache" / "offline-deit"), ("/proc/none", tmp_path)):
        run = [sys.executable, "-c", code]
        place = subprocess.run(
            run, capture_output=True, text=True, env=environment | homes | {"HOME": home}, check=True
        )
        assert place.stdout.startswith(str(start)) and Path(place.stdout.strip()).stat().st_mode & 0o077 == 0
    given = environment | {"NUMBA_CACHE_DIR": "/proc/none"}
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given).stderr
    assert "NUMBA_CACHE_DIR /proc/none: No such file or directory; name a folder to write to" in refused
    for variable in ("XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    first = compiled.cache_folder()
    assert first.is_relative_to(tmp_path / "XDG_CACHE_HOME")
    first.chmod(0o777)  # where others may write, their code would run
    assert not compiled.cache_folder().is_relative_to(tmp_path / "XDG_CACHE_HOME")


def test_the_first_start_says_that_it_compiles_and_the_second_loads(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "from pipeline.base.compiled import compile_ahead, kernel, misses\n"
        "@kernel\ndef more(x):\n    return x + 1\n"
        "compile_ahead(lambda: more(1))\nprint(misses())\n"
    )
    said = []
    for _ in range(2):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "code"), "PYTHONPATH": str(Path.cwd())}
        run = subprocess.run([sys.executable, tmp_path / "tiny.py"], capture_output=True, text=True, env=environment)
        said.append(run.stdout.splitlines())
    assert said[0][0].startswith("compiling the kernels") and said[0][1:] == ["1"] and said[1] == ["0"]


def test_no_worker_compiles() -> None:
    code = """
import json, multiprocessing
from pipeline.base.compiled import misses
from pipeline.views.draw import compile_kernels
if __name__ == "__main__":
    compile_kernels()
    found = [misses()]
    for way in ("fork", "forkserver"):
        with multiprocessing.get_context(way).Pool(1) as pool:
            pool.apply(compile_kernels)  # what a draw would compile
            found.append(pool.apply(misses))
    print(json.dumps(found))
"""
    compile_kernels()
    environment = os.environ | {"DISTIL_ENGINE": "kernels"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(run.stdout.splitlines()[-1]) == [0, 0, 0]
