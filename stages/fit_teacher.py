"""The weights of one teacher as work/teachers/<teacher>: fitted here, taken from elsewhere, or a trained student's."""

from pathlib import Path

import click

from pipeline.runtime.config import load
from pipeline.runtime.machine import distributed, pool_root, rank, workers, world_size
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from stages import params_option, shards_option, work_option


@click.command(help=__doc__)
@click.option("--teacher", "name", required=True, help="Its name under teachers: in params.yaml.")
@params_option
@work_option
@shards_option
@stage
def main(name: str, params: Path, work: Path, shards: Path | None) -> None:
    from pipeline.base.files import require_own
    from pipeline.data.shards import Shards
    from pipeline.runtime.code import code_of
    from pipeline.teacher import fit
    from pipeline.teacher.config import TeacherConfig
    from pipeline.teacher.model import read_initial
    from pipeline.training.config import FitConfig
    from pipeline.training.schedule import lanes_of
    from pipeline.views.recipe import Recipe

    chosen = load(params, f"teachers.{name}", TeacherConfig)
    recipe = load(params, f"recipes.{chosen.recipe}", Recipe)
    out, shards = work / "teachers" / name, shards or work / "shards"
    require_own(out, fit.MARKS)
    train, val = Shards.open(shards / "train"), Shards.open(shards / "val")
    how, top1 = load(params, f"teachers.{name}.fit", FitConfig) if chosen.fitted_here else None, None
    if how is not None:  # refused before the ranks wait for each other
        lanes_of(rank(), world_size(), how.lanes, f"teachers.{name}.fit.lanes")
    with timed(out, f"fit_teacher:{name}"), distributed():
        if how is not None:
            initial = read_initial(chosen, recipe.size) if chosen.initial is not None else None
            key = fit.run_key(chosen, how, recipe, train, initial, code_of("fit_teacher"))
            runs = pool_root() / "runs" / f"teacher-{key[:16]}"
            model, share = fit.fit_teacher(chosen, how, recipe, train, val, runs, workers(), initial)
            weights, top1 = "fitted" if initial is None else f"{chosen.initial}, fitted further", 100 * share
            say(f"teacher {name}: {top1:.2f} % top-1 on the validation split")
        else:
            student = work / "students" / chosen.student
            model, weights = fit.trained_elsewhere(chosen, recipe, len(train.classes), student)
        if rank() == 0:
            fit.write_teacher(model, chosen, recipe, train.classes, weights, top1, out)


if __name__ == "__main__":
    main()
