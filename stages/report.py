"""The report: one HTML page, summary.json and summary.md; --show prints a report's table."""

import json
from pathlib import Path

import click

from pipeline.runtime.errors import UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
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
    from pipeline.report.study import Study
    from pipeline.report.write import write_report

    found = write_report(Work(work), Study.load(params), params, work / "report")
    say(json.dumps(found, indent=1) if as_text else f"report: {work / 'report' / 'index.html'}")


if __name__ == "__main__":
    main()
