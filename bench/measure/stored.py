"""Accuracy against what a cache stores: number of views, and the codec of the logits, at the scale of the demo.

    python -m bench.measure.stored                                         12 trainings of about two minutes each
    python -m bench.measure.stored --views 3,30 --codecs f16 --epochs 10

A softly distilled student cycles through the first V views of a cache; all else is the demo's. One image of 360 is 0.28
points, so that only large differences say anything; intervals are Wilson's at 95 %.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from pipeline.runtime.code import ROOT


def run(folder: Path, stage: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)


@click.command(help=__doc__)
@click.option("--views", default="3,6,15,30", show_default=True, help="V, multiples of 3.")
@click.option("--codecs", default="u8,f16,none", show_default=True, help="none: hard labels, and a hard student.")
@click.option("--epochs", default=30.0, show_default=True)
def main(views: str, codecs: str, epochs: float) -> None:
    print("| codec | V | top-1 % | 95 % interval | bytes a view |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), True
        for codec in codecs.split(","):
            student = "hard" if codec == "none" else "soft"
            for count in views.split(","):
                changes = [
                    f"student={student}",
                    f"training.epochs={epochs}",
                    f"training.period={count}",
                    "cache.group=3",
                ]
                changes += [f"cache.views={count}", f"cache.codec={codec}", "--configs", str(ROOT / "configs")]
                run(folder, "configure", *changes)
                if first:
                    for stage in ("index", "shard", "fit_teacher"):
                        run(folder, stage, *(["--teacher", "regnety_digits"] if stage == "fit_teacher" else []))
                    first = False
                for out in ("caches/digits", f"students/{student}", f"eval/{student}"):
                    subprocess.run(["rm", "-rf", str(folder / "work" / out)], check=True)
                run(folder, "precompute", "--cache", "digits")
                run(folder, "train", "--student", student)
                run(folder, "evaluate", "--student", student)
                scored = json.loads((folder / f"work/eval/{student}/metrics.json").read_text())
                found = scored["sets"]["val"]["heads"]["class"]
                stored = sum(
                    path.stat().st_size for path in (folder / "work/caches/digits").rglob("*") if path.is_file()
                )
                low, high = found["interval"]
                cells = f"{codec} | {count} | {found['top1']:.2f} | {low:.2f} to {high:.2f}"
                print(f"| {cells} | {stored / 1437 / int(count):.1f} |", flush=True)


if __name__ == "__main__":
    main()
