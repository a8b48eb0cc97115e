"""The kernels of draw.cu and digest.cu, compiled and ready to be called.

On a GPU NVRTC compiles them, which comes with torch's wheels for CUDA, and the driver loads and starts them; nothing else
has to be installed. On a CPU a C++ compiler does, for tests: one thread then does what a grid of them does. Machine code is
kept beside that of numba's kernels, one file per source, compiler and GPU.
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
from pipeline.base.files import write_durably
from pipeline.runtime.errors import first_line
from pipeline.runtime.libraries import compiler_missing
from pipeline.runtime.progress import say

SOURCES = tuple(Path(__file__).with_name(f"{name}.cu") for name in ("parallel", "draw", "digest"))
NVRTC_FLAGS = ("--fmad=false", "--std=c++17")  # no multiplication and addition may become one
COMPILER_FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared")


class Kernels(Protocol):
    def __call__(self, name: str, blocks: int, threads: int, *arguments: torch.Tensor | int) -> None:
        """Starts the kernel ``name`` on the current stream, with tensors of its device and 64-bit integers."""

    def pin(self, address: int, size: int) -> None:
        """Locks memory that the device then reads without a copy. Raises Unavailable."""

    def unpin(self, address: int) -> None:
        """Undoes ``pin``, before the memory goes."""


def source() -> bytes:
    return b"".join(b'#line 1 "%s"\n' % path.name.encode() + path.read_bytes() for path in SOURCES)


@cache
def open_kernels(device: torch.device) -> Kernels:
    """Raises Unavailable."""
    return _OnGpu(device) if device.type == "cuda" else _OnCpu()


class _OnGpu:
    """By the driver's own interface, whose functions are those of every driver since CUDA 4."""

    def __init__(self, device: torch.device) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        architecture = f"sm_{major}{minor}"
        path = _kept("cubin", f"{architecture} {torch.version.cuda}", lambda: compiled(architecture, "CUBIN"))
        torch.empty(
            1, device=device
        )  # from here on the device has a context, which torch shares with the driver's users
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
    """The file that holds what ``make`` makes of these sources, made once on this machine."""
    name = hashlib.sha256(source() + made_by.encode()).hexdigest()[:32]
    path = Path(os.environ["NUMBA_CACHE_DIR"], f"draw-{name}.{kind}")
    if not path.exists():
        say(f"compiling {', '.join(of.name for of in SOURCES)}, once on this machine, into {path.parent}")
        write_durably(path, make())
    return path


def _loaded(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise Unavailable(first_line(error)) from None


def compiler() -> str:
    """The name of the C++ compiler: CXX, or one of those that are common. Raises Unavailable."""
    if missing := compiler_missing():
        raise Unavailable(f"here is {missing}")
    return os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")))


def built(flags: tuple[str, ...]) -> bytes:
    """The shared library that the C++ compiler makes of the sources. Raises Unavailable."""
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler(), *flags, "-o", f"{folder}/draw.so", "-"]
        made = subprocess.run(command, input=source(), capture_output=True, check=False)
        if made.returncode:
            raise Unavailable(f"{command[0]}: {first_line(RuntimeError(made.stderr.decode()))}")
        return Path(folder, "draw.so").read_bytes()


def compiled(architecture: str, what: str) -> bytes:
    """By NVRTC: "PTX" of ``compute_90``, or the machine code "CUBIN" of ``sm_90``. Needs no GPU. Raises Unavailable."""
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
    """The library that came with torch, or that of the system. Raises Unavailable."""
    package = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    for builtins in sorted(path for place in places for path in place.rglob("libnvrtc-builtins.so.*")):
        _loaded(str(builtins))  # which NVRTC looks for by name
    found = sorted(path for place in places for path in place.rglob("libnvrtc.so.*"))
    return _loaded(str(found[-1]) if found else f"libnvrtc.so.{str(torch.version.cuda).partition('.')[0]}")
