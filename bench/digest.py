"""Hashes what a demo made, so that two commits can be compared on one machine.

\b
    python -m bench.digest                       of work/, after make demo: a line per file, then one of all
    python -m bench.digest WORK > before.txt     then the same of another commit's work, and diff

Hashed are shards, caches (rows and records), weights of teachers and students, answers and scores: everything that must be
equal to the last bit on one machine. Not hashed are times, the work pool, listings (paths and times of the images) and the
report's page, which shows times.
"""

from hashlib import sha256
from pathlib import Path

import click

from pipeline.base.files import sha256_file

MADE = (
    "shards", "test_sets", "teachers", "caches", "students", "answers", "eval", "metrics", "curves", "confusion",
    "report/summary.md",
)  # fmt: skip


def digests(work: Path) -> dict[str, str]:
    """sha256 in hex of every file below ``work`` that a commit must make anew bit for bit, by its path in ``work``."""
    files = (path for name in MADE for path in (work / name, *(work / name).rglob("*")) if path.is_file())
    return {str(path.relative_to(work)): sha256_file(path) for path in sorted(files) if path.name != "unused"}


@click.command(help=__doc__)
@click.argument("work", default="work", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(work: Path) -> None:
    found = digests(work)
    if not found:
        raise click.UsageError(f"{work}: nothing that a demo makes; run make demo first")
    lines = [f"{value}  {name}" for name, value in found.items()]
    print("\n".join(lines))
    whole = sha256("\n".join(lines).encode()).hexdigest()
    print(f"{whole}  all {len(found)} files")


if __name__ == "__main__":
    main()
