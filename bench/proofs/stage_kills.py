"""SIGKILLs of the real teacher stage: two jobs on one pool, each killed at a random moment of its work and started again.

\b
    python -m bench.proofs.stage_kills --kills 20

At the end the pool is compared byte for byte with one that was never interrupted, and verified.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click

from pipeline.cache.repair import collect
from pipeline.cache.verify import targets_of, verify
from pipeline.planning.params import compose, write_params

OVERRIDES = [
    "student=plain",
    "teacher.fit.epochs=0.1",
    "cache.views=60",
    "cache.group=6",
    "data.shard_size=64",
    "data.block=32",
]


def stage(name: str, work: Path, pool: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"stages.{name}", "--params", str(work / "params.yaml"), *arguments]
    environment = {**os.environ, "DISTIL_POOL": str(pool), "DISTIL_WORKERS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    if code := process.wait():
        raise SystemExit(f"{process.args!r} ended with {code}")


def content(pool: Path) -> dict[str, bytes]:
    files = (path for path in pool.rglob("*") if path.is_file() and path.name != "log.jsonl")
    return {str(path.relative_to(pool)): path.read_bytes() for path in files}


def committed(pool: Path) -> int:
    return len(list(pool.glob("caches/*/commits/*/*.json")))


@click.command(help=__doc__)
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_params(compose(Path("configs"), OVERRIDES), work / "params.yaml", OVERRIDES)
        whole, killed, other = work / "whole", work / "killed", work / "other"  # pools; two of them are compared
        finish(stage("index", work, other, "--out", f"{work}/index.tsv"))
        finish(stage("shard", work, other, "--index", f"{work}/index.tsv", "--out", f"{work}/shards"))
        finish(stage("fit_teacher", work, other, "--work", folder, "--teacher", "regnety_digits"))
        job = ["--work", folder, "--cache", "digits", "--only-shards", "0:1000000"]  # nothing is published
        finish(stage("precompute", work, whole, *job))
        done = staged = 0
        while done < kills:
            jobs = [stage("precompute", work, killed, *job) for _ in range(2)]
            for process in jobs:
                wanted = committed(killed) + chance.randint(1, 6)
                while process.poll() is None and committed(killed) < wanted:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0.0, 0.2))  # a part takes about as long
                running = process.poll() is None
                with suppress(ProcessLookupError):  # it has finished
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += running
            if not any(process.returncode == -signal.SIGKILL for process in jobs):
                raise SystemExit(f"the pool was whole after {done} kills; ask for fewer, or make it bigger")
            staged += len(list(killed.glob("caches/*/staging/*")))
        finish(stage("precompute", work, killed, *job))
        (cache,) = targets_of(killed)
        report = verify(cache)
        collect(cache, older_than=0.0)  # what killed jobs left in staging
        equal = content(whole) == content(killed)
        print(f"{done} kills of running jobs ({staged} left staging behind), {report.whole} of {report.parts} parts whole, "
              f"{'equal to' if equal else 'DIFFERENT FROM'} the uninterrupted pool byte for byte")  # fmt: skip
        if not equal or report.damaged:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
