"""The teacher's weights as work/teachers/<teacher>/model.safetensors: fitted here, or taken from elsewhere."""

from pathlib import Path

import click

from pipeline.base.files import digest, refuse_foreign
from pipeline.data.shards import Shards
from pipeline.runtime import config
from pipeline.runtime.code import code_of
from pipeline.runtime.machine import distributed, pool_root, rank, workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage, timed
from pipeline.teacher import fit
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import create
from pipeline.training import loop
from pipeline.training.config import FitConfig
from pipeline.views.recipe import Recipe

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--shards", type=FOLDER, default=Path("work/shards"), show_default=True)
@click.option("--out", type=FOLDER, required=True, help="work/teachers/<teacher>")
@stage
def main(params: Path, shards: Path, out: Path) -> None:
    chosen = config.load(params, "teacher", TeacherConfig)
    how = config.load(params, "fit", FitConfig)
    recipe = config.load(params, "views", Recipe)
    refuse_foreign(out, fit.MARKS)
    train, val = Shards.open(shards / "train"), Shards.open(shards / "val")
    with timed(out, "fit_teacher"), distributed():
        if chosen.weights is None:
            code = loop.code_hashes(code_of("fit_teacher"))
            key = digest([chosen.model_dump(), how.model_dump(), recipe.model_dump(), train.manifest_hash, code])
            runs = pool_root() / "runs" / f"teacher-{key[:16]}"
            model, found = fit.fit_teacher(chosen, how, recipe, train, val, runs, workers())
            say(f"teacher {chosen.name}: {100 * found:.2f} % top-1 on the validation split")
            report = {"name": chosen.name, "source": "fitted", "top1": 100 * found}
        else:
            model = create(chosen, len(train.classes), pretrained=True)
            report = {"name": chosen.name, "source": chosen.weights}
        if rank() == 0:
            fit.write_teacher(model, report, out)


if __name__ == "__main__":
    main()
