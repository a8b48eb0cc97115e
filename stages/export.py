"""A trained student for other programs, checked against it on real images, with a model card."""

import json
from pathlib import Path
from typing import Literal

import click

from pipeline.runtime.config import load, peek
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
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
    from pipeline.cache.layout import CacheConfig
    from pipeline.data.shards import Shards
    from pipeline.report.card import card
    from pipeline.student import formats
    from pipeline.student.config import StudentConfig
    from pipeline.student.export import load as load_student
    from pipeline.student.export import require_trained_for
    from pipeline.views.recipe import Recipe
    from pipeline.views.validation import views_of_rows

    formats.require_tools(kind)
    chosen = load(params, f"students.{name}", StudentConfig)
    recipe = load(params, f"recipes.{chosen.recipe}", Recipe)
    cache = peek(params, f"caches.{chosen.cache}", CacheConfig)
    directory, val = work / "students" / name, Shards.open(work / "shards" / "val")
    student = load_student(directory)
    require_trained_for(directory, val.classes, recipe)
    images = views_of_rows(val, range(min(100, val.samples)), recipe)
    place = out or work / "exports" / name / kind
    with whole_directory(place, ("README.md",)) as fresh:
        file, worst = formats.write(student, directory, kind, images, fresh)
        write_durably(fresh / "README.md", card(work, name, chosen, recipe, cache, kind).encode())
    found = {"path": str(place / file), "images": len(images), "largest_difference": worst}
    say(
        json.dumps(found) if as_text else f"{place / file}: differs by at most {worst:.2g} on {len(images)} real images"
    )


if __name__ == "__main__":
    main()
