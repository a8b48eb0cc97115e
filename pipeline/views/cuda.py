"""Compiles the kernels of draw.cu and digest.cu, and calls them.

For a GPU, NVRTC compiles and the driver loads and launches them. NVRTC comes with torch's wheels for CUDA, so nothing else
has to be installed. For tests on a CPU, a C++ compiler builds a library in which one thread does the work of a whole grid.
Machine code is kept beside that of numba's kernels, in one file per source, compiler and architecture.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

import pipeline.base.compiled  # noqa: F401  # chooses NUMBA_CACHE_DIR
from pipeline.base.engine import Unavailable
from pipeline.base.files import read_small, sha256_file, write_durably
from pipeline.runtime.errors import first_line
from pipeline.runtime.libraries import compiler_missing
from pipeline.runtime.progress import say

SOURCES = tuple(Path(__file__).with_name(f"{name}.cu") for name in ("parallel", "draw", "digest"))
NVRTC_FLAGS = ("--fmad=false", "--std=c++17")  # fused multiply-adds would round differently
COMPILER_FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared")


class Kernels(Protocol):
    def __call__(self, name: str, blocks: int, threads: int, *arguments: torch.Tensor | int) -> None:
        """Launches the kernel ``name`` on the current stream. ``arguments``: tensors on its device, and 64-bit integers."""

    def pin(self, address: int, size: int) -> None:
        """Page-locks memory, so that copies from it to the device are asynchronous. Raises Unavailable."""

    def unpin(self, address: int) -> None:
        """Undoes ``pin``; call it before the memory is freed."""


def source() -> bytes:
    return b"".join(b'#line 1 "%s"\n' % path.name.encode() + path.read_bytes() for path in SOURCES)


@cache
def open_kernels(device: torch.device) -> Kernels:
    """Raises Unavailable."""
    return _OnGpu(device) if device.type == "cuda" else _OnCpu()


class _OnGpu:
    """Calls the driver's API directly; every driver since CUDA 4 has these functions."""

    def __init__(self, device: torch.device) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        architecture = f"sm_{major}{minor}"
        path = _kept("cubin", f"{architecture} {torch.version.cuda}", lambda: compiled(architecture, "CUBIN"))
        torch.empty(1, device=device)  # creates torch's context, which the calls below use
        self.device, self.module, self.functions = device, ctypes.c_void_p(), {}
        with torch.cuda.device(device):
            self.driver = _loaded("libcuda.so.1")
            self._require(self.driver.cuModuleLoadData(ctypes.byref(self.module), path.read_bytes()))
            for name in ("draw_views", "sum_blocks", "chain"):
                self.functions[name] = ctypes.c_void_p()
                found = ctypes.byref(self.functions[name])
                self._require(self.driver.cuModuleGetFunction(found, self.module, name.encode()))

    def _require(self, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self.driver.cuGetErrorString(code, ctypes.byref(text))
            raise Unavailable(f"the driver says {(text.value or b'').decode()!r} (code {code})")

    def __call__(self, name: str, blocks: int, threads: int, *arguments: torch.Tensor | int) -> None:
        values = [ctypes.c_uint64(_address(of)) for of in arguments]
        places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        shape = (blocks, 1, 1, threads, 1, 1, 0)  # of the grid, of a block; bytes of dynamic shared memory
        with torch.cuda.device(self.device):
            self._require(self.driver.cuLaunchKernel(self.functions[name], *shape, stream, places, None))

    def pin(self, address: int, size: int) -> None:
        with torch.cuda.device(self.device):
            self._require(self.driver.cuMemHostRegister_v2(ctypes.c_void_p(address), ctypes.c_size_t(size), 0))

    def unpin(self, address: int) -> None:
        with torch.cuda.device(self.device):
            self._require(self.driver.cuMemHostUnregister(ctypes.c_void_p(address)))


class _OnCpu:
    def __init__(self) -> None:
        made_by = " ".join([platform.machine(), compiler(), *COMPILER_FLAGS])
        self.library = _loaded(str(_kept("so", made_by, lambda: built(COMPILER_FLAGS))))

    def __call__(self, name: str, blocks: int, threads: int, *arguments: torch.Tensor | int) -> None:
        self.library[name](*[ctypes.c_uint64(_address(of)) for of in arguments])

    def pin(self, address: int, size: int) -> None:
        pass

    def unpin(self, address: int) -> None:
        pass


def _address(of: torch.Tensor | int) -> int:
    return of.data_ptr() if isinstance(of, torch.Tensor) else of


def _kept(kind: str, made_by: str, make: Callable[[], bytes]) -> Path:
    """The file with the result of ``make`` for these sources; it is made once on this machine, and again where it is damaged:
    its SHA-256 stands beside it."""
    name = hashlib.sha256(source() + made_by.encode()).hexdigest()[:32]
    path = Path(os.environ["NUMBA_CACHE_DIR"], f"draw-{name}.{kind}")
    beside = path.with_name(f"{path.name}.sha256")
    for taken in filter(Path.is_dir, (path, beside)):
        raise Unavailable(f"{taken} is a folder; remove it")
    if not (path.is_file() and beside.is_file() and read_small(beside).decode("ascii", "replace") == sha256_file(path)):
        why = f"anew, since {path.name} is damaged" if beside.exists() else "once on this machine"
        say(f"compiling {', '.join(of.name for of in SOURCES)}, {why}, into {path.parent}")
        write_durably(path, make())
        write_durably(beside, sha256_file(path).encode())
    return path


def _loaded(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise Unavailable(first_line(error)) from None


def compiler() -> str:
    """The C++ compiler: CXX, else the first of the common ones that is installed. Raises Unavailable."""
    if missing := compiler_missing():
        raise Unavailable(f"here is {missing}")
    return os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")))


def built(flags: tuple[str, ...]) -> bytes:
    """The sources as a shared library, built by the C++ compiler. Raises Unavailable."""
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler(), *flags, "-o", f"{folder}/draw.so", "-"]
        made = subprocess.run(command, input=source(), capture_output=True, check=False)
        if made.returncode:
            raise Unavailable(f"{command[0]}: {first_line(RuntimeError(made.stderr.decode()))}")
        return Path(folder, "draw.so").read_bytes()


def compiled(architecture: str, what: str) -> bytes:
    """Compiles by NVRTC, which needs no GPU. ``what``: "PTX" for an architecture such as ``compute_90``, "CUBIN" (machine code)
    for one such as ``sm_90``. Raises Unavailable."""
    library, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    flags = [f"--gpu-architecture={architecture}".encode(), *(flag.encode() for flag in NVRTC_FLAGS)]
    code = library.nvrtcCreateProgram(ctypes.byref(program), source(), b"draw.cu", 0, None, None)
    code = code or library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    kind = "ProgramLog" if code else what
    getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    made = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{kind}")(program, made)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if code:
        raise Unavailable(f"NVRTC can't compile for {architecture}: {first_line(RuntimeError(made.value.decode()))}")
    return made.raw


@cache
def _nvrtc() -> ctypes.CDLL:
    """NVRTC as installed with torch, else the system's. Raises Unavailable."""
    package = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    for builtins in sorted(path for place in places for path in place.rglob("libnvrtc-builtins.so.*")):
        _loaded(str(builtins))  # NVRTC looks it up by name, so it must be loaded first
    found = sorted(path for place in places for path in place.rglob("libnvrtc.so.*"))
    return _loaded(str(found[-1]) if found else f"libnvrtc.so.{str(torch.version.cuda).partition('.')[0]}")
