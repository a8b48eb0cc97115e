"""What a trained student says of your own images: the five likeliest classes of each head, with probabilities."""

import json
from pathlib import Path

import click

from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.progress import say
from pipeline.runtime.stage import stage
from pipeline.runtime.work import Work
from stages import FOLDER, work_option


@click.command(help=__doc__)
@click.argument("path", metavar="IMAGE_OR_FOLDER", type=FOLDER)
@click.option("--student", "name", required=True, help="Its name below work/students.")
@work_option
@click.option("--json", "as_text", is_flag=True, help="Print one JSON document.")
@stage
def main(path: Path, name: str, work: Path, as_text: bool) -> None:
    from pipeline.data.images import STORED
    from pipeline.data.shards import Shards
    from pipeline.student import predict
    from pipeline.student.export import load_student

    directory, val = Work(work).student(name), Work(work).split("val")
    (files, aside), student = predict.files_of(path), load_student(directory)
    rule = Shards.open(val).rule if val.is_dir() else STORED  # images are decoded as those that it was trained on
    said = []
    for of in predict.predict(student, directory, files, rule):
        said.append(of)
        if not as_text:
            say(f"{of.path}: {of.reason}" if not of.heads else str(of.path))
            for head, best in of.heads.items():
                say(f"  {head:<13}" + "  ".join(f"{label} {share:.3f}" for label, share in best))
    if as_text:
        say(json.dumps(predict.as_json(name, said, aside), indent=1))
    elif aside:
        say(f"{path}: {len(files)} images{predict.told(aside)}")
    unusable = [of for of in said if not of.heads]
    if unusable:
        first = f"{unusable[0].path}: {unusable[0].reason}"
        raise IntegrityError(f"{len(unusable)} of {len(files)} files are no images that can be read, first: {first}")


if __name__ == "__main__":
    main()
