"""Checks what this machine has for a run, in seconds: libraries, GPU, cores, the pool's file system, data, Slurm.

A line per check: ok, note (it costs time, or will be missed later) or STOP (a run would fail), with what to do.
"""

import sys
from pathlib import Path

import click

from pipeline.runtime.machine import pool_root
from pipeline.runtime.stage import stage
from pipeline.runtime.text import printable


@click.command(help=__doc__)
@stage
def main() -> None:
    from pipeline.cluster.doctor import examine

    stops = 0
    for found in examine(Path.cwd(), pool_root().absolute()):
        stops += found.state == "stop"
        mark = found.state.upper() if found.state == "stop" else found.state
        for line in found.text.splitlines():
            click.echo(f"{found.name:12}{mark:5} {printable(line)}")
    if stops:
        sys.exit(2)


if __name__ == "__main__":
    main()
