"""What keeping answers costs: CPU time of an evaluation outside the model and drawing. The goal is at most 5 %.

\b
    python -m bench.measure.evaluate             10,000 photographs, 1,000 classes, two heads

The photographs are random rectangles of real pictures. CPU seconds of this process and its threads, without loader
processes: the whole evaluation (drawing, model, ranks, logits as float16, one file), drawing alone and the model alone on
the same blocks. The model is small, so that its share is rather too small.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import click
import timm
import torch
from PIL import Image

from bench.photo_shards import photo_shards
from bench.timing import compared, interleaved, machine, seconds
from pipeline.evaluation.answering import answers_of
from pipeline.evaluation.answers import write_answers
from pipeline.evaluation.students import by_head
from pipeline.student.model import Student
from pipeline.views.chance import Draws
from pipeline.views.recipe import Recipe
from pipeline.views.validation import validation
from tests.support.photos import PICTURES, crop, save

CLASSES = 1000
KEPT = 500  # different files; each stands for many samples


def photographs(root: Path) -> list[bytes]:
    pictures = [Image.open(path).convert("RGB") for path in PICTURES.values()]
    return [save(crop(pictures[i % 5], Draws("evaluate", i)), "jpeg", root / f"{i}").read_bytes() for i in range(KEPT)]


@click.command(help=__doc__)
@click.option("--images", default=10_000, show_default=True)
@click.option("--size", default=112, show_default=True, help="Side of a view in px.")
@click.option("--rounds", default=3, show_default=True)
def main(images: int, size: int, rounds: int) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(seed=0, size=size)
    arguments = {"img_size": size, "patch_size": 16, "embed_dim": 192, "depth": 4, "num_heads": 3}
    model = Student(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=CLASSES, **arguments)).eval()
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        split = photo_shards(Path(folder) / "shards", photographs(Path(folder)), images, classes=CLASSES)
        out, sizes = Path(folder) / "val.npz", list[int]()
        some = next(validation(split, recipe, device, 0)).images

        def whole() -> None:
            found = answers_of(lambda batch: by_head(model, batch), "m", "evaluate", split, recipe, 0)
            sizes.append(write_answers(out, found))

        def drawing() -> None:
            for _ in validation(split, recipe, device, 0):
                pass

        @torch.inference_mode()
        def answering() -> None:
            for block in split.blocks:
                model(some[: block.samples])

        ways = {"whole": whole, "drawing": drawing, "model": answering}
        found = interleaved({name: partial(seconds, way) for name, way in ways.items()}, rounds)
    outside = statistics.median(1 - (b + c) / a for a, b, c in zip(*found.values()))
    print(f"{machine()}; {images} images, {size} px, {CLASSES} classes\n\n{compared(found, 'CPU s')}\n")
    print(f"outside model and drawing: {100 * outside:.2f} % (goal: at most 5); answers {sizes[0] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
