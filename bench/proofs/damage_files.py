"""Damage to the files that one stage writes and another reads, and to the compiled kernels: part of ``bench.proofs.damage``.

A file with sums must be refused in a sentence; where its sums are gone, that must be said. Damaged machine code must never be
loaded.
"""

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import compiled, sums
from pipeline.base.files import canonical_json, write_durably
from pipeline.data.index_file import read_listing, write_listing
from pipeline.data.listing import File
from pipeline.data.shards import Shards
from pipeline.evaluation.answers import read_answers, write_answers
from pipeline.evaluation.write_scores import read_scores
from pipeline.runtime.errors import PipelineError
from pipeline.runtime.system_errors import explain
from pipeline.student.export import export, load_student, read_log
from pipeline.teacher.model import Teacher
from pipeline.views import kernels
from tests.support import students
from tests.support.answers import answered
from tests.support.world import make_world

Damage = Callable[[Path, np.random.Generator], None]
_AGAIN = "the stage"
_HEAD = dict.fromkeys("top1 top5 loss precision recall f1 auc calibration_error".split(), 50.0)


def flip(path: Path, chance: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[chance.integers(len(content))] ^= 1 << chance.integers(8)
    path.write_bytes(content)


def truncate(path: Path, chance: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: chance.integers(path.stat().st_size)])


def append(path: Path, chance: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes() + chance.bytes(int(chance.integers(1, 99))))


def fill(path: Path, chance: np.random.Generator) -> None:
    """Random bytes or zeros, as many as there were."""
    size = path.stat().st_size
    path.write_bytes(chance.bytes(size) if chance.random() < 0.5 else bytes(size))


def other_json(path: Path, chance: np.random.Generator) -> None:
    path.write_bytes([b"null\n", b"[]\n", b"{}\n", b'""\n', b"[" * 9999, b"9" * 9999][chance.integers(6)])


def replaced_by(kind: str) -> Damage:
    def replace(path: Path, chance: np.random.Generator) -> None:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind != "nothing":
            path.symlink_to({"endless": "/dev/zero", "dangling": "nowhere", "looping": path.name}[kind])

    return replace


DAMAGES: Mapping[str, Damage] = {
    "bit flip": flip,
    "truncation": truncate,
    "bytes at the end": append,
    "other bytes": fill,
    "other json": other_json,
    **{f"{kind} in its place": replaced_by(kind) for kind in "folder pipe endless dangling looping nothing".split()},
}


def _small_files(root: Path) -> dict[Path, Callable[[], object]]:
    """What stages leave in ``root``, by file: how its reader reads it."""
    world, student = make_world(root, samples=128), root / "students" / "s"
    with sums.summed_directory(student, ("config.json",)) as fresh:
        export(students.make(), students.config(), students.CLASSES, students.recipe(), fresh)
        (fresh / "log.csv").write_text("epoch,task,step,live_fraction,val_top1\n1,2.3,2,0.0,11.0\n2,2.2,4,0.0,12.0\n")
    with sums.summed_directory(root / "eval" / "s", ("metrics.json",)) as fresh:
        write_answers(fresh / "val.npz", answered(90, 10, 0))
        of_set = {"samples": 90, "best": "class", "heads": {"class": {**_HEAD, "interval": [40.0, 60.0]}}}
        scored = {"sets": {"val": of_set}, "live_fraction": 0.0, "parameters": 1, "gflops": 1.0}
        write_durably(fresh / "metrics.json", canonical_json(scored))
    write_listing(root / "index.tsv", "digits", [File(f"{i}.png", i, f"{i}") for i in range(20)])
    weights = root / "teachers" / "t" / "model.safetensors"
    device = world.teacher.device
    return {
        root / "shards" / "train" / "manifest.json": partial(Shards.open, root / "shards" / "train"),
        root / "shards" / "val" / "manifest.json": partial(Shards.open, root / "shards" / "val"),
        weights: partial(Teacher.load, world.config, weights, 10, world.recipe, 32, device),
        student / "model.safetensors": partial(load_student, student),
        student / "config.json": partial(load_student, student),
        student / "log.csv": partial(read_log, student),
        root / "eval" / "s" / "val.npz": partial(read_answers, root / "eval" / "s" / "val.npz", _AGAIN),
        root / "eval" / "s" / "metrics.json": partial(read_scores, root / "eval" / "s" / "metrics.json", _AGAIN),
        root / "index.tsv": partial(read_listing, root / "index.tsv", "digits"),
    }


def small_files(root: Path, cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """``cases`` of every class of damage to small files or to their sums: counts, and what was accepted or no sentence."""
    chance, readers = np.random.default_rng(seed), _small_files(root)
    counts, faults, paths = Counter[str](), list[str](), list(readers)
    for name, damage in DAMAGES.items():
        for case in range(cases):
            path = paths[chance.integers(len(paths))]
            home = sums._home(path)
            victim = home / sums.SUMS if home is not None and case % 5 == 4 else path
            whole = victim.read_bytes()
            damage(victim, chance)
            if not victim.is_file() or victim.read_bytes() != whole:
                counts[name] += 1
                fault = _accepted(readers[path] if victim == path else partial(_read_all, victim.parent, readers))
                faults += [f"{name} of {victim.relative_to(root)}: {fault}"] if fault else []
            _restore(victim, whole)
    for path, read in readers.items():
        if fault := _accepted(read, untouched=True):
            faults.append(f"{path.relative_to(root)} without damage: {fault}")
    return counts, faults


def _read_all(home: Path, readers: Mapping[Path, Callable[[], object]]) -> None:
    """Reads every file that the sums in ``home`` cover: a damaged sum is found by the reader of the file that it is of."""
    for path in sorted(path for path in home.rglob("*") if path.is_file() and path.name != sums.SUMS):
        if path in readers:
            readers[path]()
        elif home / "train" not in path.parents and home / "val" not in path.parents:  # tars have records of their own
            sums.require_unchanged(path)


def _accepted(read: Callable[[], object], untouched: bool = False) -> str:
    """What is wrong with how a reader took its file; "" if it refused it or said that there are no sums."""
    said = io.StringIO()
    sums._say_unproven.cache_clear()
    try:
        with redirect_stdout(said):
            read()
    except PipelineError as error:
        return str(error) if untouched else ""
    except Exception as error:  # the frame of every stage makes a sentence of the system's refusals
        return "" if explain(error, {}) and not untouched else f"{type(error).__name__}: {error}"
    return "" if untouched or "has no" in said.getvalue() else "accepted"


def _restore(path: Path, content: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif os.path.lexists(path):
        path.unlink()
    path.write_bytes(content)


def compiled_kernels(root: Path, cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """``cases`` of every class of damage to the compiled kernels, of which a copy in ``root`` is made: counts, and what was
    loaded all the same."""
    compiled.compile_ahead(kernels.known_view, kernels.KNOWN_VIEW)
    chance, counts, faults = np.random.default_rng(seed), Counter[str](), list[str]()
    places: dict[Any, str] = {of: of._cache.cache_path for of in compiled._made}
    kept = [(of, signature) for of in places for signature in of.overloads]
    damages = {**DAMAGES, "another function's file": _swap}
    try:
        for of, place in places.items():
            of._cache._cache_path = str(root / Path(place).name)
        for name, damage in damages.items():
            for _ in range(cases):
                for place in set(places.values()):
                    shutil.rmtree(root / Path(place).name, ignore_errors=True)
                    shutil.copytree(place, root / Path(place).name)
                of, signature = kept[chance.integers(len(kept))]
                damage(of._cache._file(signature, of.targetctx.codegen()), chance)
                counts[name] += 1
                with redirect_stdout(io.StringIO()):
                    fault = _loaded(of, signature)
                faults += [f"{name} of {of.py_func.__name__}: {fault}"] if fault else []
    finally:
        for of, place in places.items():
            of._cache._cache_path = place
    return counts, faults


def _swap(path: Path, chance: np.random.Generator) -> None:
    others = sorted(other for other in path.parent.parent.glob("*/*.code") if other != path)
    path.write_bytes(others[chance.integers(len(others))].read_bytes())


def _loaded(of: Any, signature: Any) -> str:
    try:
        return "" if of._cache.load_overload(signature, of.targetctx) is None else "loaded"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
