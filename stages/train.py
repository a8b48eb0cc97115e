"""Trains one student of params.yaml."""

from pathlib import Path

import click

from pipeline.runtime.machine import distributed, pool_root, rank, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.runtime.work import Work
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--student", "name", required=True, help="Its name under students: in params.yaml.")
@params_option
@work_option
@shards_option
@click.option(
    "--caches", help="Published caches by name. Default: caches in --work; another folder, or s3://bucket/prefix."
)
@stage
def main(name: str, params: Path, work: Path, shards: str | None, caches: str | None) -> None:
    from pipeline.data.object_store import local_copy
    from pipeline.runtime.code import code_of
    from pipeline.student import train
    from pipeline.student.inputs import NamedStudent, open_inputs, run_key

    student = NamedStudent.load(params, name)
    place = Work(work, local_copy(shards, "--shards"), local_copy(caches, "--caches"))
    train.require_start(student, place)
    with timed(place.student(name), f"train:{name}") as notes, distributed():
        inputs = open_inputs(student, place)
        run = pool_root() / "runs" / run_key(student, inputs, code_of("train"))[:16]
        trained = train.train_student(student, inputs, run, workers())
        if rank() == 0:
            train.write_student(trained, student, inputs.train.classes, place.student(name))
            notes["speed"] = trained.speed
    say(f"student: {place.student(name)}")


if __name__ == "__main__":
    main()
