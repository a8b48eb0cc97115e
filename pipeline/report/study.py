"""What a report is about: the pieces of params.yaml that were run, and which of them belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache.layout import CacheConfig
from pipeline.data.sources import DataConfig
from pipeline.data.test_sets import SetConfig
from pipeline.runtime.config import NONE, load, load_each
from pipeline.student.config import StudentConfig
from pipeline.teacher.config import TeacherConfig
from pipeline.views.recipe import Recipe


@dataclass(frozen=True)
class Study:
    """Everything that was run, by name."""

    data: DataConfig
    recipes: Mapping[str, Recipe]
    teachers: Mapping[str, TeacherConfig]
    caches: Mapping[str, CacheConfig]
    students: Mapping[str, StudentConfig]
    test_sets: Mapping[str, SetConfig]

    @classmethod
    def load(cls, params: Path) -> "Study":
        return cls(
            data=load(params, "data", DataConfig),
            recipes=load_each(params, "recipes", Recipe),
            teachers=load_each(params, "teachers", TeacherConfig),
            caches=load_each(params, "caches", CacheConfig),
            students=load_each(params, "students", StudentConfig),
            test_sets=load_each(params, "test_sets", SetConfig, optional=True),
        )

    def teacher_of(self, name: str) -> str | None:
        """Who teaches a student; None for an undistilled one."""
        chosen = self.students[name]
        if chosen.teacher != NONE:
            return chosen.teacher
        return self.caches[chosen.cache].teacher if chosen.cache in self.caches else None

    def twin_of(self, name: str) -> str | None:
        """A distilled student's twin: the same model without token, same recipe and training, undistilled; None without
        one, and for the undistilled."""
        chosen = self.students[name]
        if chosen.distillation == NONE:
            return None
        wanted = {
            "arch": chosen.arch.replace("_distilled_", "_"),
            "distillation": NONE,
            **{key: getattr(chosen, key) for key in ("arch_args", "recipe", "training", "drop_path")},
        }
        for other, entry in self.students.items():
            if all(getattr(entry, key) == value for key, value in wanted.items()):
                return other
        return None

    def recipe_shown(self) -> tuple[str, str | None]:
        """The recipe whose views are shown, and the cache with a teacher's answers on them, if there is one."""
        cache = next(iter(self.caches), None)
        return (self.caches[cache].recipe if cache is not None else next(iter(self.recipes))), cache
