"""What tries something: names that drive a terminal, documents that are too deep, pickles that run code."""

import os
from pathlib import Path

EVIL = "a\x1b[2J\x9b\r\nexit code 0\u202egnp.exe\u2066\u200b\udcff"
SHOWN = r"a\x1b[2J\x9b\r\nexit code 0\u202egnp.exe\u2066\u200b\udcff"
DEEP = b"[" * 100_000
LONG = b"9" * 5000


class Evil:
    """Unpickled carelessly, it makes the directory ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)
