"""Before a long run: parts, files, bytes, hours on this machine (by a short probe), memory, when the cache pays."""

import json
from pathlib import Path

import click

from pipeline.cache.layout import CacheConfig
from pipeline.data.shards import Shards
from pipeline.planning.cost import plan
from pipeline.runtime import config
from pipeline.runtime.machine import workers
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.student.config import StudentConfig
from pipeline.teacher.config import TeacherConfig
from pipeline.training.config import TrainConfig
from pipeline.views.recipe import Recipe

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--shards", type=FOLDER, default=Path("work/shards"), show_default=True)
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(params: Path, shards: Path, as_text: bool) -> None:
    found = plan(
        Shards.open(shards / "train"),
        config.load(params, "views", Recipe),
        config.load(params, "cache", CacheConfig),
        config.load(params, "teacher", TeacherConfig),
        config.load(params, "train", TrainConfig),
        config.load_each(params, "students", StudentConfig),
        workers(),
    )
    if as_text:
        say(json.dumps(found, indent=1))
        return
    cache, teacher = found["cache"], found["teacher"]
    size = f"{cache['bytes_estimated'] / 1e9:.3g} GB"
    say(
        f"cache: {cache['parts']} parts, {cache['files']} files, about {size}, {cache['teacher_forward_passes']:,} views"
    )
    say(f"       {cache['hours']:.3g} h on this {found['device']}, bound by {cache['bound_by']}")
    say(f"teacher: {teacher['milliseconds_per_view']:.3g} ms and {teacher['gflops_per_view']:.3g} GFLOP per view")
    say(f"drawing: {found['drawing_milliseconds_per_view_and_core']:.3g} ms per view and core; {found['memory']}")
    for name, entry in found["students"].items():
        say(f"{name}: {entry['hours_cached']:.3g} h from the cache, {entry['hours_live']:.3g} h with the live teacher")
    least = found["break_even_students"]
    say("the cache never pays here" if least is None else f"the cache pays from {least} student(s) on")


if __name__ == "__main__":
    main()
