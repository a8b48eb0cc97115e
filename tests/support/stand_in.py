"""Stands in for the stages in tests of jobs: their options, pool, stop signals and exit codes, without torch.

PARTS and SECONDS: how many parts, and what one takes. DEAF=1 ignores stop signals. CODE ends with this exit code. FULL names a
file: while it is there, the disk counts as full. HANG names a file: it is made
after two parts, and the process hangs; where it is there, nothing hangs.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # in place of this folder, whose names hide Python's own
from pipeline.runtime.watchdog import beat, watched  # noqa: E402 - found by the line above

stop: list[int] = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN if os.environ.get("DEAF") else lambda number, frame: stop.append(number))


def end(code: int, text: str) -> None:
    print(f"{text}\nexit code {code}", flush=True)
    sys.exit(code)


def main() -> None:
    pool = Path(os.environ["DISTIL_POOL"], "parts", os.environ["SLURM_JOB_NAME"].partition("@")[2])
    pool.mkdir(parents=True, exist_ok=True)
    if os.environ.get("CODE"):
        end(int(os.environ["CODE"]), "error: as it was told")
    if os.environ.get("FULL") and Path(os.environ["FULL"]).exists():
        end(75, "error: no space left: free some space, then run the same command")
    print(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}", flush=True)
    for part in range(int(os.environ.get("PARTS", "8"))):
        if (pool / f"{part}").exists():
            continue
        if stop:
            end(75, "error: stopped by a signal")
        time.sleep(float(os.environ.get("SECONDS_EACH", "1")))
        with (pool / f"{part}").open("x") as file:
            file.write(os.environ["SLURM_JOB_ID"])
        Path(os.environ["DISTIL_PROGRESS"]).touch()
        beat()
        hang = Path(os.environ.get("HANG", "/"))
        if part == 1 and not hang.exists():
            hang.touch()
            time.sleep(3600)
    print("done")


with watched("stand-in"):
    main()
