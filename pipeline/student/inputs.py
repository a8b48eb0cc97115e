"""A student with all that it names, what it learns from, opened and checked before any work, and the key of its run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.base.files import digest
from pipeline.base.sums import require_sums
from pipeline.base.weights import state_hash
from pipeline.cache.identity import cache_identity, require_identity, require_maker, require_views, require_weights
from pipeline.cache.layout import NamedCache, layout_of
from pipeline.cache.reader import Cache, open_cache
from pipeline.cache.teacher_answers_canary import rounds_differently
from pipeline.data.shards import Shards
from pipeline.runtime.config import load, peek
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.progress import say
from pipeline.runtime.work import Work
from pipeline.student.config import SHOWN, StudentConfig
from pipeline.student.initial import initial_state
from pipeline.student.supervision import FromTeacher
from pipeline.teacher.canary import answers_canary
from pipeline.teacher.config import NamedTeacher
from pipeline.teacher.model import Teacher
from pipeline.training.config import TrainConfig
from pipeline.training.loop import code_hashes
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class NamedStudent:
    """A student of params.yaml with the pieces that it names. ``teacher``: the maker of its cache, or the live one."""

    name: str
    config: StudentConfig
    training: TrainConfig
    recipe: Recipe
    cache: NamedCache | None
    teacher: NamedTeacher | None

    @classmethod
    def load(cls, params: Path, name: str) -> "NamedStudent":
        config = load(params, f"students.{name}", StudentConfig)
        training = load(params, f"trainings.{config.training}", TrainConfig)
        recipe = load(params, f"recipes.{config.recipe}", Recipe)
        cache = peek(NamedCache.load, params, config.cache)
        maker = cache.config.teacher if cache is not None else config.teacher
        return cls(name, config, training, recipe, cache, peek(NamedTeacher.load, params, maker))


@dataclass(frozen=True)
class Inputs:
    """What a student learns from. ``coverage``: V of its cache, 0 without one. ``initial``: the weights that it starts
    from, None for new ones."""

    train: Shards
    val: Shards
    coverage: int
    cache: Cache | None
    live: FromTeacher | None
    initial: Mapping[str, Tensor] | None


def open_inputs(student: NamedStudent, work: Work) -> Inputs:
    """Opens what ``student`` needs below ``work``, and only that.

    Raises UsageError for what is missing, IdentityError for a cache of another recipe, data set, image library or teacher
    than params.yaml says.
    """
    chosen, recipe, cache, maker = student.config, student.recipe, student.cache, student.teacher
    codec = cache.config.codec if cache is not None else chosen.codec
    require_sums(*(work.split(split) / "manifest.json" for split in ("train", "val")))
    device, train = pick_device(), Shards.open(work.split("train"))
    opened, live, path = None, None, work.cache(chosen.cache)
    # The cache is of these views and this maker.
    if cache is not None:
        opened = open_cache(path)
        require_views(opened, train, recipe, device, path)
        if maker is not None:
            require_maker(opened, layout_of(train, cache.config), maker.config.model_dump(mode="json"), path)
        require_weights(opened, work.teacher_weights(cache.config.teacher), path)
        if chosen.supervision == "cached" and student.training.period is None and opened.views != cache.config.views:
            raise UsageError(
                f"{path}: holds V = {opened.views} views, params.yaml says {cache.config.views}; run: "
                f"python -m stages.precompute --cache {chosen.cache}"
            )
    # The live teacher is the one that made the cache, whose codec its logits pass.
    if chosen.supervision in ("live", "auto") and maker is not None:
        weights = work.teacher_weights(chosen.teacher)
        require_sums(weights)
        model = Teacher.load(maker.config, weights, len(train.classes), recipe, train.block_size, device)
        live = FromTeacher(model, recipe, codec)
        if opened is not None and cache is not None:
            layout = layout_of(train, cache.config)
            require_identity(opened, cache_identity(train, recipe, layout, model.identity(), device), path)
            if told := rounds_differently(opened.path, answers_canary(model, recipe)):
                say(f"warning: {told}")
    return Inputs(
        train=train,
        val=Shards.open(work.split("val")),
        coverage=opened.views if opened is not None else 0,
        cache=opened,
        live=live,
        initial=initial_state(chosen, work.student(chosen.parent)),
    )


def run_key(student: NamedStudent, inputs: Inputs, code: list[str]) -> str:
    """Hash of all that decides a run's result; names its checkpoints, so that changed code or data starts anew and a
    killed or repeated run goes on. Of a cache that must be whole it holds the rows as well: labelled anew on other
    hardware they may differ in their last bits under the same identity. Raises IntegrityError for a damaged record."""
    config, chosen, cache = student.training, student.config, inputs.cache
    rows = cache.records_hash(config.period or cache.views) if cache and chosen.supervision == "cached" else None
    names = {"recipe", "training", "cache", "teacher", "parent"}  # what they name is here by its content
    return digest(
        {
            "training": config.model_dump(mode="json"),
            "student": chosen.model_dump(mode="json", exclude=names | SHOWN) | {"supervision": chosen.supervision},
            "initial": state_hash(inputs.initial) if inputs.initial is not None else None,
            "recipe": student.recipe.model_dump(mode="json"),
            "shards": [inputs.train.manifest_hash, inputs.val.manifest_hash],
            "coverage": inputs.coverage,
            "cache": [cache.hash, rows] if cache else None,
            "teacher": [inputs.live.teacher.identity(), inputs.live.codec] if inputs.live else None,
            "code": code_hashes(code),
        }
    )
