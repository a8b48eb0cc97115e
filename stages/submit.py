"""Submits the whole chain for these students, or for all, to Slurm: shards, teachers, caches, trainings, scores, report.

\b
    python -m stages.submit                    all of params.yaml, by the settings in cluster.yaml
    python -m stages.submit hard soft          two students and what they need
"""

from pathlib import Path

import click

from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import pool_root
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage


@click.command(help=__doc__)
@click.argument("students", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print the scripts of the jobs; submit nothing.")
@click.option(
    "--record", "only_record", is_flag=True, help="Tell DVC what the jobs made: the last job of a chain does it."
)
@stage
def main(students: tuple[str, ...], dry_run: bool, only_record: bool) -> None:
    from pipeline.base.files import sha256_file, write_durably
    from pipeline.cluster import submit
    from pipeline.cluster.config import load_cluster
    from pipeline.cluster.script import JOBS, sbatch_text

    root, pool = Path.cwd(), pool_root().absolute()
    chain = submit.Chain.load(root, students)
    if only_record:
        submit.record(chain)
        return
    where, cluster = load_cluster()
    copy = pool / "submitted" / f"{sha256_file(root / 'params.yaml')[:16]}.yaml"
    if dry_run:
        for job in submit.jobs(chain, cluster, copy):
            say(f"# after: {' '.join(name for _, name in job.after) or 'nothing'}")
            say(sbatch_text(job, getattr(cluster, job.kind), pool, root))
        return
    submit.require_cluster(chain, cluster, where)
    (root / JOBS).mkdir(parents=True, exist_ok=True)
    try:
        write_durably(copy, (root / "params.yaml").read_bytes())
    except OSError as error:
        raise UsageError(
            f"{pool}: the pool can't be written ({error.strerror}); set DISTIL_POOL to a shared folder"
        ) from None
    submit.require_taken(cluster, pool, root)
    submit.prepare(chain)
    made = submit.jobs(submit.Chain.load(root, students), cluster, copy)
    for line in submit.submit(made, cluster, pool, root):
        say(line)
    say("how it goes: python -m stages.status" if made else "everything is there: nothing was submitted")


if __name__ == "__main__":
    main()
