"""Ctrl-C while a stage starts: one sentence and 130, where Python, an import or click would each say it their own way."""

import os
import signal
import sys
from types import FrameType

_TEXT = "interrupted; run the same command to go on"
_CODE = 130


def end_quietly_at_once() -> None:
    """From now on Ctrl-C ends a process that ``python -m`` started at once, unless its stage is at work: then it raises
    KeyboardInterrupt, and ``runtime.stage`` ends it after all clean-up. Elsewhere nothing changes."""
    if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    place, files, modules = frame, set[str](), set[str]()
    while place is not None:
        files.add(place.f_code.co_filename)
        modules.add(str(place.f_globals.get("__name__")))
        place = place.f_back
    importing = any(file.startswith("<frozen importlib") for file in files)  # it may turn the exception into its own
    if "pipeline.runtime.stage" in modules and not importing:
        signal.default_int_handler(number, frame)
    os.write(2, f"error: {_TEXT}\nexit code {_CODE}\n".encode())
    os._exit(_CODE)
