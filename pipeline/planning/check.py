"""Whether params.yaml can run: what timm and local files show of models and weights before any stage starts.

Models are built on the device meta, without their numbers, so what timm refuses shows here and not after hours of other
stages. That needs torch and timm, whose import takes seconds: what was found fit once is remembered in the work pool.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.base.files import digest, sha256_file, write_durably
from pipeline.base.weights_name import is_hub
from pipeline.cache.codec import check_codec
from pipeline.data.sources import expected_classes
from pipeline.planning.pieces import Pieces, parse, raise_all
from pipeline.runtime.code import ROOT
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import pool_root

_LIBRARIES = ("torch", "torchvision", "timm", "pydantic")


def check(params: Mapping[str, Any], environment: Mapping[str, str], files: bool = True) -> Pieces:
    """The pieces of ``params``, checked whole; without ``files`` no local file is looked at, which
    need not be there yet.

    Raises UsageError with every problem on a line of its own: sections, keys, names, pieces that do not go together,
    models that timm refuses, local weights that are missing or do not fit.
    """
    pieces = parse(params)
    classes = None
    if files:
        raise_all(list(_missing_files(pieces)))
        classes = expected_classes(pieces.data, environment)
    raise_all(list(_unfit_codecs(pieces, classes or pieces.data.classes)))
    mark = pool_root() / "checked" / _key(params, pieces, classes)
    if not mark.is_file():
        raise_all([*_misfits(pieces, classes)])
        with suppress(OSError):  # a pool that can't be written costs seconds at the next check, and no more
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_durably(mark, b"")
    return pieces


def _missing_files(pieces: Pieces) -> Iterator[str]:
    for key, name in pieces.named_weights().items():
        if name is not None and not is_hub(name) and not Path(name).is_file():
            yield f"{key}: no such file {name}; correct it, or name a hub model"


def _unfit_codecs(pieces: Pieces, classes: int | None) -> Iterator[str]:
    if classes is None:
        return
    named = {f"caches.{name}": cache.codec for name, cache in pieces.caches.items()}
    named |= {f"students.{name}": entry.codec for name, entry in pieces.students.items() if entry.codec is not None}
    for key, codec in named.items():
        try:
            check_codec(codec, classes)
        except UsageError as error:
            yield f"{key}: {error}"


def _key(params: Mapping[str, Any], pieces: Pieces, classes: int | None) -> str:
    """Hash of all that decides the check: params, C, code, libraries, and size and time of named local weights."""
    named = (Path(name) for name in pieces.named_weights().values() if name is not None and not is_hub(name))
    seen = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in named if path.is_file()}
    code = {str(path.relative_to(ROOT)): sha256_file(path) for path in sorted((ROOT / "pipeline").rglob("*.py"))}
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return digest([json.loads(json.dumps(params)), classes, seen, code, versions])


def _misfits(pieces: Pieces, classes: int | None) -> Iterator[str]:
    """What timm refuses of every model, and weights that are not for ``classes``."""
    import torch

    from pipeline.base.timm_models import require_known
    from pipeline.student.model import create as create_student
    from pipeline.teacher.model import create as create_teacher
    from pipeline.teacher.model import require_fit

    for name, teacher in pieces.teachers.items():
        try:
            require_known(teacher.arch, teacher.arch_args, teacher.weights)
            with torch.device("meta"):
                create_teacher(teacher, 2, pretrained=False)
            if classes is not None:
                require_fit(teacher, classes)
        except UsageError as error:
            yield f"teachers.{name}: {error}"
    for name, student in pieces.students.items():
        try:
            require_known(student.arch, student.arch_args, student.initial)
            with torch.device("meta"):
                create_student(student, 2, pieces.recipes[student.recipe].size)
        except UsageError as error:
            yield f"students.{name}: {error}"
