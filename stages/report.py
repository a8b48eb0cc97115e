"""The report: one HTML page, summary.json and summary.md; --show prints a report's table."""

import json
from pathlib import Path

import click

from pipeline.runtime.config import load, load_each
from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from stages import FOLDER, params_option, work_option


@click.command(help=__doc__)
@params_option
@work_option
@click.option("--show", type=FOLDER, help="Print the table of this summary.json and stop.")
@click.option("--json", "as_text", is_flag=True, help="Print the numbers as one JSON document.")
@stage
def main(params: Path, work: Path, show: Path | None, as_text: bool) -> None:
    if show is not None:
        from pipeline.base.files import parse_json
        from pipeline.report.table import table

        if not show.is_file():
            raise UsageError(f"{show}: no such file; write it with: dvc repro")
        try:
            text = table(parse_json(show.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{show}: not a summary of stages.report ({error!r}); write it with: dvc repro") from None
        say(f"\n{text}\n\nreport: {show.parent / 'index.html'}")
        return
    from pipeline.cache.layout import CacheConfig
    from pipeline.data.sources import DataConfig
    from pipeline.data.test_sets import SetConfig
    from pipeline.report.study import Study
    from pipeline.report.write import write
    from pipeline.student.config import StudentConfig
    from pipeline.teacher.config import TeacherConfig
    from pipeline.views.recipe import Recipe

    study = Study(
        data=load(params, "data", DataConfig),
        recipes=load_each(params, "recipes", Recipe),
        teachers=load_each(params, "teachers", TeacherConfig),
        caches=load_each(params, "caches", CacheConfig),
        students=load_each(params, "students", StudentConfig),
        test_sets=load_each(params, "test_sets", SetConfig, optional=True),
    )
    found = write(work, study, params, work / "report")
    say(json.dumps(found, indent=1) if as_text else f"report: {work / 'report' / 'index.html'}")


if __name__ == "__main__":
    main()
