"""The report: one HTML page and summary.json; --show prints a report's table."""

from pathlib import Path

import click

from pipeline.runtime.config import NONE, load_each
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from stages import FOLDER, params_option, work_option


@click.command(help=__doc__)
@params_option
@work_option
@click.option("--show", type=FOLDER, help="Print the table of this summary.json and stop.")
@stage
def main(params: Path, work: Path, show: Path | None) -> None:
    from pipeline.base.files import parse_json
    from pipeline.cache.layout import CacheConfig
    from pipeline.report.summary import Shown, summarise, table
    from pipeline.student.config import StudentConfig
    from pipeline.teacher.config import TeacherConfig
    from pipeline.views.recipe import Recipe

    if show is not None:
        if not show.is_file():
            raise UsageError(f"{show}: no such file; write it with: dvc repro")
        try:
            text = table(parse_json(show.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{show}: not a summary of stages.report ({error!r}); write it with: dvc repro") from None
        say(f"\n{text}\n\nreport: {show.parent / 'index.html'}")
        return
    from pipeline.report.page import write

    recipes, teachers = load_each(params, "recipes", Recipe), load_each(params, "teachers", TeacherConfig)
    caches, students = load_each(params, "caches", CacheConfig), load_each(params, "students", StudentConfig)
    first = next(iter(teachers), "")
    shown = {
        name: Shown(s.distillation, s.teacher if s.teacher != NONE else caches[s.cache].teacher if s.cache in caches else first)
        for name, s in students.items()
    }  # fmt: skip
    summary = summarise(work, teachers, caches, shown)
    cache = next(iter(caches), None)
    recipe = recipes[caches[cache].recipe if cache is not None else next(iter(recipes))]
    write(work, cache, recipe, summary, work / "report")
    say(f"report: {work / 'report' / 'index.html'}")


if __name__ == "__main__":
    main()
