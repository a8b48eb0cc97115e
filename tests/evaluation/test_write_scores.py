"""Scores that are read back: what is damaged is refused by its sums, and without them by its form."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.sums import summed_directory
from pipeline.evaluation.write_scores import read_scores
from pipeline.runtime.errors import IntegrityError, UsageError

HEAD = {
    "top1": 60.0,
    "interval": [49.7, 69.5],
    "top5": 98.9,
    "loss": 1.26,
    "precision": 56.8,
    "recall": 62.7,
    "f1": 55.8,
}
HEAD |= {"auc": None, "calibration_error": 21.5}
FEW = {"top1": 61.1, "interval": [50.8, 70.5], "top5": 100}
SCORES = {
    "sets": {
        "val": {"samples": 90, "best": "fused", "heads": {"class": HEAD, "fused": HEAD}, "ema": {"fused": FEW}},
        "real": {"samples": 80, "best": "fused", "heads": {"fused": {"top1": 60.0, "interval": [49.7, 69.5]}}},
    },
    "live_fraction": 0.0,
    "parameters": 348_874,
    "gflops": 0.0119,
    "tokens": {"parameters": 0.1, "layers": [0.2, 0.9], "heads": 0.3},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in items:
        yield (*path, key)
        yield from places(entry, (*path, key))


def damaged(path: tuple[Any, ...], content: object) -> dict[str, Any]:
    """The scores with other ``content`` at ``path``, or without what stands there."""
    found = copy.deepcopy(SCORES)
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    if content is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = content
    return found


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(SCORES, indent=1))
    assert read_scores(tmp_path / "metrics.json", "x") == SCORES
    with pytest.raises(UsageError, match=r"none\.json: no such file; write it with: x"):
        read_scores(tmp_path / "none.json", "x")


def test_without_sums_other_forms_are_refused(tmp_path: Path) -> None:
    """What may be left out or be null passes, and nothing else."""
    file, passed = tmp_path / "metrics.json", set[str]()
    for path in places(SCORES):
        for content in (..., "text", [], {}, True, None):
            file.write_text(json.dumps(damaged(path, content)))
            try:
                read_scores(file, "x")
                passed.add(f"{'.'.join(map(str, path))}: {'left out' if content is ... else content}")
            except IntegrityError as error:
                assert str(error).endswith("; write it again with: x")
    heads = {f"sets.val.heads.{head}" for head in ("class", "fused")}
    optional = {"sets.real", "sets.val.ema", "sets.val.ema.fused.top5", "sets.val.heads.class", "tokens"}
    optional |= {"tokens.layers.0", "tokens.layers.1"}
    assert passed == {f"{path}: left out" for path in optional} | {f"{head}.auc: None" for head in heads}


def test_scores_with_sums_have_every_byte_compared(tmp_path: Path) -> None:
    with summed_directory(tmp_path / "s", ("metrics.json",)) as fresh:
        (fresh / "metrics.json").write_text(json.dumps(SCORES))
    file = tmp_path / "s" / "metrics.json"
    file.write_text(json.dumps(SCORES).replace("61.1", "61.2"))
    with pytest.raises(IntegrityError, match=r"metrics\.json: damaged, sha256 is"):
        read_scores(file, "x")
