"""One teacher's answers on each test set, without chance, as work/answers/<teacher>: a file as a student's answers."""

from pathlib import Path

import click

from pipeline.runtime.config import load_each
from pipeline.runtime.machine import distributed, rank, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.runtime.work import Work
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--teacher", "name", required=True, help="Its name under teachers: in params.yaml.")
@params_option
@work_option
@shards_option
@stage
def main(name: str, params: Path, work: Path, shards: str | None) -> None:
    from pipeline.base.files import require_own
    from pipeline.base.sums import summed_directory
    from pipeline.data.object_store import local_copy
    from pipeline.data.test_sets import SetConfig
    from pipeline.evaluation.answers import write_answers
    from pipeline.evaluation.sets import open_sets
    from pipeline.evaluation.teachers import teacher_answers
    from pipeline.teacher.config import NamedTeacher

    teacher, place = NamedTeacher.load(params, name), Work(work, local_copy(shards, "--shards"))
    configs = load_each(params, "test_sets", SetConfig, optional=True)
    out, weights, size = place.answers(name), place.teacher_weights(name), 0
    require_own(out, ("val.npz",))
    with timed(out, f"answers:{name}"), distributed():
        sets = open_sets(place, configs, teacher.recipe)
        found = {label: teacher_answers(teacher, weights, *of, workers()) for label, of in sets.items()}
        if rank() == 0:
            with summed_directory(out, ("val.npz",)) as fresh:
                size = sum(write_answers(fresh / f"{label}.npz", of) for label, of in found.items())
    say(f"answers: {out} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
