"""Accuracy against what a cache stores: number of views, and the codec of the logits, at the scale of the demo.

\b
    python -m bench.measure.stored                                         12 trainings of about two minutes each
    python -m bench.measure.stored --views 3,30 --codecs f16 --epochs 10

A softly distilled student cycles through the first V views of a cache; everything else is the demo's. One image of 360 is 0.28
points, so that only large differences mean something; intervals are Wilson's at 95 %.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench.timing import head, machine, row
from pipeline.runtime.code import ROOT

DIGITS = 1437  # training images


def run(folder: Path, stage: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)


def trained(folder: Path, student: str, changes: list[str]) -> tuple[float, float, float, int]:
    """Top-1, its interval, and the bytes of the cache, of a student trained anew from a cache made anew."""
    run(folder, "configure", f"student={student}", "cache.group=3", *changes, "--configs", str(ROOT / "configs"))
    work = folder / "work"
    if not (work / "shards").exists():
        run(folder, "index")
        run(folder, "shard")
        run(folder, "fit_teacher", "--teacher", "regnety_digits")
    for out in ("caches/digits", f"students/{student}", f"eval/{student}"):
        shutil.rmtree(work / out, ignore_errors=True)
    run(folder, "precompute", "--cache", "digits")
    run(folder, "train", "--student", student)
    run(folder, "evaluate", "--student", student)
    found = json.loads((work / "eval" / student / "metrics.json").read_text())["sets"]["val"]["heads"]["class"]
    size = sum(path.stat().st_size for path in (work / "caches/digits").rglob("*") if path.is_file())
    return found["top1"], *found["interval"], size


@click.command(help=__doc__)
@click.option("--views", default="3,6,15,30", show_default=True, help="V, multiples of 3.")
@click.option("--codecs", default="u8,f16,none", show_default=True, help="none: hard labels, and a hard student.")
@click.option("--epochs", default=30.0, show_default=True)
def main(views: str, codecs: str, epochs: float) -> None:
    print(f"{machine()}\n\n{head('codec', 'V', 'top-1 %', '95 % interval', 'bytes a view')}")
    with tempfile.TemporaryDirectory() as folder:
        for codec in codecs.split(","):
            for count in map(int, views.split(",")):
                changes = [f"training.epochs={epochs}", f"training.period={count}", f"cache.views={count}"]
                student = "hard" if codec == "none" else "soft"
                top1, low, high, size = trained(Path(folder), student, [*changes, f"cache.codec={codec}"])
                cells = (f"{top1:.2f}", f"{low:.2f} to {high:.2f}", f"{size / DIGITS / count:.1f}")
                print(row(codec, count, *cells), flush=True)


if __name__ == "__main__":
    main()
