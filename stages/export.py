"""A trained student for other programs, checked against it on real images, with a model card."""

import json
from pathlib import Path
from typing import Literal

import click

from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
from stages import FOLDER, params_option, work_option


@click.command(help=__doc__)
@click.option("--student", "name", required=True, help="Its name under students: in params.yaml.")
@click.option("--to", "kind", type=click.Choice(["onnx", "pt2", "hub-folder"]), required=True)
@params_option
@work_option
@click.option("--out", type=FOLDER, help="Default: exports/NAME/KIND in --work.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(name: str, kind: Literal["onnx", "pt2", "hub-folder"], params: Path, work: Path, out: Path | None,
         as_text: bool) -> None:  # fmt: skip
    from pipeline.base.files import whole_directory, write_durably
    from pipeline.data.shards import Shards
    from pipeline.report.card import card
    from pipeline.student import export, formats
    from pipeline.student.inputs import NamedStudent
    from pipeline.views.validation import views_of_rows

    formats.require_tools(kind)
    student, place = NamedStudent.load(params, name), Work(work)
    directory, val = place.student(name), Shards.open(place.split("val"))
    model = export.load_student(directory)
    export.require_trained_for(directory, val.classes, student.recipe)
    images = views_of_rows(val, range(min(100, val.samples)), student.recipe)
    out = out or work / "exports" / name / kind
    with whole_directory(out, ("README.md",)) as fresh:
        file, worst = formats.write_format(model, directory, kind, images, fresh)
        write_durably(fresh / "README.md", card(student, place, kind).encode())
    found = {"path": str(out / file), "images": len(images), "largest_difference": worst}
    told = f"{out / file}: differs by at most {worst:.2g} on {len(images)} real images"
    say(json.dumps(found) if as_text else told)


if __name__ == "__main__":
    main()
