"""The report: one HTML page and summary.json; --show prints a report's table."""

import json
from pathlib import Path

import click

from pipeline.cache.layout import CacheConfig
from pipeline.report.page import write
from pipeline.report.summary import summarise, table
from pipeline.runtime import config
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.student.config import StudentConfig
from pipeline.teacher.config import TeacherConfig
from pipeline.views.recipe import Recipe

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--params", type=FOLDER, default=Path("params.yaml"), show_default=True)
@click.option("--work", type=FOLDER, default=Path("work"), show_default=True, help="Where the other stages wrote.")
@click.option("--out", type=FOLDER, default=Path("work/report"), show_default=True)
@click.option("--show", type=FOLDER, help="Print the table of this summary.json and stop.")
@stage
def main(params: Path, work: Path, out: Path, show: Path | None) -> None:
    if show is not None:
        if not show.is_file():
            raise UsageError(f"{show}: no such file; write it with: dvc repro")
        try:
            shown = table(json.loads(show.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{show}: not a summary of stages.report ({error!r}); write it with: dvc repro") from None
        say(f"\n{shown}\n\nreport: {show.parent / 'index.html'}")
        return
    cache = config.load(params, "cache", CacheConfig).name
    teacher = config.load(params, "teacher", TeacherConfig).name
    students = config.load_each(params, "students", StudentConfig)
    summary = summarise(work, cache, teacher, {name: s.distillation for name, s in students.items()})
    write(work, cache, config.load(params, "views", Recipe), summary, out)
    say(f"report: {out / 'index.html'}")


if __name__ == "__main__":
    main()
