"""A page in headless Chromium: what a person would stumble over, found by a script in the page itself."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
).split()
_SCRIPT = Path(__file__).with_suffix(".js")


def look(page: Path, width: int, dark: bool, scratch: Path) -> dict[str, Any]:
    """What the script found on ``page`` in a window of ``width`` px: ``found``, ``requests``, ``console``, ``dark``,
    ``width``, ``texts`` (lines of text looked at)."""
    script = f"<script>{_SCRIPT.read_text(encoding='utf-8')}</script>"
    copy = scratch / "looked-at.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
    # A window is at least 500 px wide, a frame as wide as one wants.
    frame = scratch / "frame.html"
    style = f"border:0;width:{width}px;height:2000px"
    meta = '<meta name="color-scheme" content="light dark">'
    frame.write_text(f'{meta}<body style="margin:0"><iframe src="{copy.name}" style="{style}"></iframe>')
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    place = f"--user-data-dir={scratch / f'profile-{width}-{dark}'}"
    command = [str(CHROMIUM), *_FLAGS, place, scheme, "--window-size=1300,2000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    said = [match[1] for line in lines if (match := re.search(r'"SAID ([\w+/=]+)"', line))]
    assert len(said) == 1, done.stderr[-2000:]
    return json.loads(base64.b64decode(said[0])) | {"console": [line for line in lines if '"SAID ' not in line]}
