"""A small true world for tests and proofs: digits in shards, DeiT's whole recipe, a teacher, all in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.cache.codec import CodecName
from pipeline.cache.layout import CacheConfig, NamedCache, Store
from pipeline.data.listing import Split
from pipeline.data.pack import pack_splits
from pipeline.data.shards import Shards
from pipeline.data.sources import DataConfig, find_root, read_splits, scan
from pipeline.runtime.config import validate
from pipeline.runtime.machine import device
from pipeline.runtime.work import Work
from pipeline.student.config import StudentConfig
from pipeline.student.inputs import NamedStudent
from pipeline.student.supervision import FromTeacher
from pipeline.teacher import fit, precompute
from pipeline.teacher.config import NamedTeacher, TeacherConfig
from pipeline.teacher.model import Teacher, create_teacher
from pipeline.training.config import FitConfig, OptimizerConfig, TrainConfig
from pipeline.views.recipe import Recipe

RECIPE = {
    "seed": 1,
    "size": 32,
    "policy": "rand-m9-mstd0.5-inc1",
    "erase": {"probability": 0.25, "mode": "pixel"},
    "mix": {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0},
}
TEACHER = {"recipe": "r", "fit": {}, "arch": "test_byobnet", "mean": [0.3, 0.3, 0.3], "std": [0.4, 0.4, 0.4]}
MODEL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
# cache and teacher of a student
NAMES = {"none": ("none", "none"), "cached": ("c", "none"), "live": ("none", "t"), "auto": ("c", "t")}


@dataclass(frozen=True)
class World:
    """Digits packed into shards and an untrained teacher in ``root``."""

    root: Path
    shards: Shards
    val: Shards
    recipe: Recipe
    teacher: Teacher
    config: TeacherConfig

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    @property
    def work(self) -> Work:
        return Work(self.root, self.shards.root.parent)

    @property
    def weights(self) -> Path:
        return self.work.teacher_weights("t")

    @property
    def named_teacher(self) -> NamedTeacher:
        return NamedTeacher("t", self.config, self.recipe)

    def labelled(self, config: CacheConfig, recipe: Recipe | None = None) -> precompute.LabelledCache:
        return precompute.LabelledCache(NamedCache("c", config, recipe or self.recipe), self.config)

    def label(
        self, codec: CodecName, views: int, share: str = "1/1", recipe: Recipe | None = None, workers: int = 0
    ) -> Store:
        """Labels one share of the parts of a cache in the pool."""
        config = CacheConfig(recipe="r", teacher="t", views=views, group=3, codec=codec)
        made = self.labelled(config, recipe)
        return precompute.label_share(made, self.work, self.pool, precompute.Share.parse(share), False, workers)[0]

    def live(self, codec: str | None) -> FromTeacher:
        return FromTeacher(self.teacher, self.recipe, codec)


def make_world(
    root: Path, samples: int = 349, arch: str = "test_byobnet", epochs: float = 0.0, block: int = 32, **recipe: Any
) -> World:
    """``samples`` training digits in shards of 128 and blocks of 32 (349: three shards, an odd last block of 29), or in
    shards of four larger blocks.

    The teacher has initial weights, or is fitted for ``epochs``. The same call makes the same world.
    """
    data = validate(DataConfig, {"source": "digits", "shard_size": 4 * block, "block": block, "seed": 0}, "data")
    source = find_root(data.source, {})
    classes, splits = read_splits(data, source, scan(data, source))
    splits = {"train": Split(splits["train"].entries[:samples]), "val": Split(splits["val"].entries[:90])}
    pack_splits(data, classes, splits, root / "shards", 1)
    shards, val = Shards.open(root / "shards" / "train"), Shards.open(root / "shards" / "val")
    chosen, config = (
        validate(Recipe, RECIPE | recipe, "views"),
        validate(TeacherConfig, TEACHER | {"arch": arch}, "teacher"),
    )
    torch.manual_seed(0)
    teacher = NamedTeacher("t", config, chosen)
    fitted = fit.Fitted(create_teacher(config, 10, pretrained=False), shards.classes, "fitted", None)
    if epochs:
        how = FitConfig(epochs=epochs, batch=64, optimizer=OptimizerConfig(lr=0.016, ema_decay=None))
        fitted = fit.fit_teacher(teacher, how, fit.FitInputs(shards, val, None), root / "fit", 0)
    fit.write_teacher(fitted, teacher, root / "teachers" / "t")
    return open_world(root, arch, **recipe)


def open_world(root: Path, arch: str = "test_byobnet", **recipe: Any) -> World:
    """A world that ``make_world`` has made, from another process or with a pool of its own."""
    shards, val = Shards.open(root / "shards" / "train"), Shards.open(root / "shards" / "val")
    chosen, config = (
        validate(Recipe, RECIPE | recipe, "views"),
        validate(TeacherConfig, TEACHER | {"arch": arch}, "teacher"),
    )
    weights = root / "teachers" / "t" / "model.safetensors"
    teacher = Teacher.load(config, weights, 10, chosen, shards.block_size, device())
    return World(root, shards, val, chosen, teacher, config)


def student(supervision: str = "none", distillation: str = "none", token: bool = True, **fields: Any) -> StudentConfig:
    arch = "deit_tiny_distilled_patch16_224" if token else "deit_tiny_patch16_224"
    plain = {"arch": arch, "arch_args": MODEL, "distillation": distillation, "token": token, "drop_path": 0.1}
    cache, teacher = NAMES[supervision]
    links = {"recipe": "r", "training": "t", "cache": cache, "teacher": teacher, "parent": "none"}
    return validate(StudentConfig, links | plain | fields, "student")


def training(world: World, steps: int, **fields: Any) -> TrainConfig:
    plain = {"batch": 64, "lanes": 2, "window": 2}
    return validate(TrainConfig, {"epochs": (steps + 0.5) * 64 / world.shards.samples, **plain, **fields}, "train")


def named(world: World, how: TrainConfig, chosen: StudentConfig, cache: CacheConfig | None = None) -> NamedStudent:
    """Student ``s`` with the pieces of ``world`` that it names."""
    kept = world.labelled(cache).cache if cache is not None else None
    return NamedStudent("s", chosen, how, world.recipe, kept, world.named_teacher)
