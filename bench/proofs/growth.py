"""A cache that grows with its data: what each change labels, and that all it finds again is what a fresh labelling gives.

\b
    python -m bench.proofs.growth                                        digits in a folder: 1,437, 1,450, 1,440, all again
    python -m bench.proofs.growth --counts 90,100,95 --shard-size 16 --views 3 --steps 4      a small size, as in the tests

Every step is what a user runs: index, shard, the teacher's weights, precompute, in one work pool. Compared are the published
cache with that of an empty pool, file by file, and the losses of a student from the last cache with those of its live twin.
"""

import csv
import os
import re
import shutil
import tempfile
from pathlib import Path

import click
import numpy as np
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from bench.timing import head, row
from pipeline.base.weights import write_state
from pipeline.data.shards import Shards
from pipeline.planning.params import compose
from pipeline.runtime.config import validate, write_yaml
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import create_teacher
from stages import fit_teacher, index, precompute, shard, train

VAL = 90  # the last images of each count of digits
MODEL = "{img_size: 24, patch_size: 6, embed_dim: 48, depth: 2, num_heads: 3}"


def run(stage: click.Command, *options: str) -> str:
    found = CliRunner().invoke(stage, options)
    if found.exit_code:
        raise SystemExit(f"{stage.name}: {found.output}")
    return found.output


def write_digits(data: Path, count: int) -> None:
    """Exactly the first ``count`` digits as ``train``, always the same 90 others as ``val``."""
    digits = load_digits()
    images, labels = (digits.images * (255 / 16)).round().astype(np.uint8), digits.target
    wanted = {f"train/{labels[i]}/{i:04d}.png": i for i in range(count)}
    wanted |= {f"val/{labels[-i]}/{i:04d}.png": -i for i in range(1, VAL + 1)}
    for path in data.rglob("*.png"):
        if str(path.relative_to(data)) not in wanted:
            path.unlink()
    for name, i in wanted.items():
        if not (data / name).exists():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i]).resize((24, 24), Image.Resampling.BICUBIC).save(data / name)


def write_params(root: Path, shard_size: int, views: int, steps: int) -> None:
    """A teacher with weights of its own, so that it stays; a student from the cache, and its live twin."""
    batch = 16
    overrides = [
        "data=folder", "student=photos_plain", f"data.shard_size={shard_size}", "data.block=8", "recipe.size=24",
        "teacher.arch=test_byobnet", "teacher.fit=null", "teacher.weights=random.safetensors",
        f"cache.views={views}", "cache.group=3", f"training.batch={batch}", "training.lanes=1", f"training.period={views}",
        f"student.arch_args={MODEL}", "student.distillation=soft", "student.cache=photos",
    ]  # fmt: skip
    params = compose(Path("configs"), overrides)
    plain = params["students"].pop("photos_plain")
    params["students"] = {
        "cached": plain,
        "live": plain | {"cache": "none", "teacher": "regnety_photos", "codec": "u8"},
    }
    params["trainings"]["photos"]["epochs"] = (steps + 0.5) * batch / Shards.open(root / "work/shards/train").samples
    (root / "params.yaml").write_text(write_yaml(params))


def contents(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def published(root: Path, pool: str) -> tuple[dict[str, bytes], int]:
    """The cache as ``precompute`` publishes it out of this pool, and how many parts it labelled."""
    os.environ["DISTIL_POOL"] = str(root / pool)
    shutil.rmtree(root / "work/caches", ignore_errors=True)
    said = run(precompute.main, "--cache", "photos", "--new-cache")
    return contents(root / "work/caches/photos"), int(re.findall(r"labelled \d+ views in (\d+) parts", said)[0])


def log_of(student: str) -> list[dict[str, str]]:
    """The rows of its training, without who labelled."""
    run(train.main, "--student", student)
    with (Path("work/students") / student / "log.csv").open() as file:
        return [
            {name: value for name, value in line.items() if name != "live_fraction"} for line in csv.DictReader(file)
        ]


def prove(root: Path, counts: list[int], shard_size: int, views: int, steps: int) -> int:
    """How many comparisons failed."""
    failed, configs = 0, Path("configs").absolute()
    (root / "configs").symlink_to(configs)
    os.chdir(root)
    os.environ |= {"DATA_ROOT": str(root / "data"), "DISTIL_WORKERS": "0"}
    own = validate(TeacherConfig, {"recipe": "r", "arch": "test_byobnet", "fit": {}}, "teacher")
    write_state(root / "random.safetensors", create_teacher(own, 10, pretrained=False).state_dict())
    print(head("images", "shards", "parts", "labelled", "equal to a fresh labelling"))
    for count in counts:
        write_digits(root / "data", count)
        if not (root / "params.yaml").exists():
            (root / "params.yaml").write_text(
                write_yaml(compose(Path("configs"), ["data=folder", f"data.shard_size={shard_size}", "data.block=8"]))
            )
        os.environ["DISTIL_POOL"] = str(root / "pool")
        run(index.main)
        shutil.rmtree("work/shards", ignore_errors=True)  # as DVC does before the stage runs
        run(shard.main)
        write_params(root, shard_size, views, max(1, steps))
        run(fit_teacher.main, "--teacher", "regnety_photos")
        fresh, parts = published(root, f"fresh {count}")
        shutil.rmtree(root / f"fresh {count}")
        grown, labelled = published(root, "pool")
        failed += grown != fresh
        print(
            row(
                str(count),
                str(len(Shards.open(root / "work/shards/train").hashes)),
                str(parts),
                str(labelled),
                str(grown == fresh),
            )
        )
    if not steps:
        return failed
    equal = log_of("cached") == log_of("live")
    print(f"a student of the last cache and its live twin: {'equal losses' if equal else 'OTHER LOSSES'}")
    return failed + (not equal)


@click.command(help=__doc__)
@click.option("--counts", default="1437,1450,1440,1437", show_default=True)
@click.option("--shard-size", default=128, show_default=True)
@click.option("--views", default=6, show_default=True)
@click.option("--steps", default=40, show_default=True)
def main(counts: str, shard_size: int, views: int, steps: int) -> None:
    folder, here = Path(tempfile.mkdtemp()), Path.cwd()
    try:
        failed = prove(folder, [int(count) for count in counts.split(",")], shard_size, views, steps)
    finally:
        os.chdir(here)
        shutil.rmtree(folder)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
