"""Machine code of the kernels: where it is kept, and that no worker compiles."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import compiled
from pipeline.runtime.errors import IntegrityError, UsageError
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kernels are kept that this test makes, which are the only ones of the process as far as it knows."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.setattr(compiled, "_made", [])
    compiled._folder_of.cache_clear()
    compiled._say_once.cache_clear()
    return tmp_path / "code"


KEPT: list[Any] = []  # a process keeps its kernels; LLVM stumbles where one is collected and its namesake is loaded


def start(source: Path, body: str = "x + 1", known: int = 2) -> int:
    """How many kernels are compiled where a new process would run ``source``, whose one kernel returns ``body``."""
    source.parent.mkdir(exist_ok=True)
    source.write_text(f"def more(x):\n    return {body}\n")
    os.utime(source, (0, 0))  # as in images that are built reproducibly
    made: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), made)
    KEPT.extend(compiled._made)
    compiled._made.clear()
    compiled._folder_of.cache_clear()
    more = compiled.kernel(made["more"])
    compiled.compile_ahead(lambda: bytes([more(1)]), sha256(bytes([known])).hexdigest())
    return compiled.misses()


def test_code_serves_clones_of_equal_sources_and_no_others(tmp_path: Path, folder: Path, capsys: Any) -> None:
    assert start(tmp_path / "a" / "tiny.py") == 1
    assert capsys.readouterr().out.startswith("compiling the kernels")
    assert start(tmp_path / "a" / "tiny.py") == 0 and start(tmp_path / "clone" / "tiny.py") == 0
    assert start(tmp_path / "a" / "tiny.py", "1 + x") == 1  # of equal size and time
    assert start(tmp_path / "a" / "tiny.py") == 0


def test_damaged_code_is_dropped_said_once_and_compiled_anew(tmp_path: Path, folder: Path, capsys: Any) -> None:
    source = tmp_path / "tiny.py"
    start(source)
    [path] = folder.glob("*/*.code")
    whole = path.read_bytes()
    for damaged in (
        b"",
        bytes(len(whole)),
        whole[:-1],
        b"x" * 99,
        whole[:-100] + bytes([whole[-100] ^ 4]) + whole[-99:],
    ):
        path.write_bytes(damaged)
        assert start(source) == 1 and path.read_bytes()[:32] == compiled._sum(path, path.read_bytes()[32:])
    path.unlink()
    path.symlink_to("/dev/zero")
    assert start(source) == 1 and start(source) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "are damaged" in line]
    assert len(said) == 2 and "its checksum is wrong" in said[0]  # the second one names the device


def test_code_that_draws_something_else_is_compiled_anew(tmp_path: Path, folder: Path, capsys: Any) -> None:
    source = tmp_path / "tiny.py"
    start(source)
    [path] = folder.glob("*/*.code")
    start(source, "x + 2", 3)
    [other] = set(folder.glob("*/*.code")) - {path}
    code = other.read_bytes()[32:]
    path.write_bytes(compiled._sum(path, code) + code)  # a right sum of wrong code
    assert start(source) == 1 and "they draw other pixels" in capsys.readouterr().out and start(source) == 0
    with pytest.raises(IntegrityError, match="the kernels draw other pixels on this machine"):
        start(source, known=7)


def test_a_full_disk_costs_a_compilation_and_two_at_once_leave_whole_files(tmp_path: Path, folder: Path) -> None:
    program = """
import sys
from hashlib import sha256
from pipeline.base.compiled import compile_ahead, kernel, misses
@kernel
def more(x):
    return x + 1
compile_ahead(lambda: bytes([more(1)]), sha256(bytes([2])).hexdigest())
print(misses())
"""
    (tmp_path / "tiny.py").write_text(program)

    def run(before: str = "") -> list[str]:
        command = ["bash", "-c", f'{before} exec "$@"', "bash", sys.executable, str(tmp_path / "tiny.py")]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()

    said = run("ulimit -f 1;")
    assert "compiled kernels can't be kept" in said[1] and said[-1] == "1" and not list(folder.glob("*/*"))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run(), range(2)))
    assert all(said[-1] in ("0", "1") for said in both) and not [s for said in both for s in said if "damaged" in s]
    [path] = [path for path in folder.glob("*/.*") if path.is_file()] or list(folder.glob("*/*.code"))
    assert path.read_bytes()[:32] == compiled._sum(path, path.read_bytes()[32:])


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_in_which_others_may_write_is_refused(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(mode)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    with pytest.raises(
        UsageError, match=f"can be written by others .mode {mode:o}., and code that they put there would run"
    ):
        compiled._choose_folder()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "~/kernels")
    assert compiled._choose_folder() == str(tmp_path / "kernels") and (tmp_path / "kernels").stat().st_mode & 0o77 == 0


def test_no_worker_compiles() -> None:
    code = """
import json, multiprocessing
from pipeline.base.compiled import misses
from pipeline.runtime.errors import IntegrityError, UsageError
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
