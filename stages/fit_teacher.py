"""The weights of one teacher as work/teachers/<teacher>: fitted here, taken from elsewhere, or a trained student's."""

from pathlib import Path

import click

from pipeline.runtime.config import load
from pipeline.runtime.machine import distributed, pool_root, rank, workers, world_size
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
    from pipeline.data.object_store import local_copy
    from pipeline.runtime.code import code_of
    from pipeline.teacher import fit
    from pipeline.teacher.config import NamedTeacher
    from pipeline.training.config import FitConfig
    from pipeline.training.schedule import lanes_of

    teacher, place = NamedTeacher.load(params, name), Work(work, local_copy(shards, "--shards"))
    require_own(place.teacher(name), fit.MARKS)
    how = load(params, f"teachers.{name}.fit", FitConfig) if teacher.config.fitted_here else None
    if how is not None:  # refused before the ranks wait for each other
        lanes_of(rank(), world_size(), how.lanes, f"teachers.{name}.fit.lanes")
    with timed(place.teacher(name), f"fit_teacher:{name}"), distributed():
        if how is None:
            fitted = fit.trained_elsewhere(teacher, place)
        else:
            inputs = fit.open_fit_inputs(teacher, place)
            key = fit.fit_key(teacher, how, inputs, code_of("fit_teacher"))
            fitted = fit.fit_teacher(teacher, how, inputs, pool_root() / "runs" / f"teacher-{key[:16]}", workers())
        if rank() == 0:
            fit.write_teacher(fitted, teacher, place.teacher(name))


if __name__ == "__main__":
    main()
