"""Whether this machine can do what ``compile: true`` asks for."""

import os
import shutil

from pipeline.runtime.errors import UsageError


def compiler_missing() -> str:
    """What is missing for torch.compile, "" if nothing is: a C++ compiler, which CXX may name (on a GPU, Triton takes a C
    compiler, which comes with it)."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if any(shutil.which(name) for name in names):
        return ""
    return f"no C++ compiler ({', '.join(names)})"


def require_compiler(key: str) -> None:
    """Raises UsageError where ``key``, which is true in params.yaml, asks for torch.compile and there is no compiler."""
    lacking = compiler_missing()
    if lacking:
        raise UsageError(
            f"{key}: true needs a compiler, and here is {lacking}; install g++, set CXX, or set it to false"
        )
