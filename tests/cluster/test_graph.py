"""The chain is what dvc.yaml says, and a stage's key holds all that decides its outputs."""

import copy
from pathlib import Path

from pipeline.cluster.graph import load_graph
from pipeline.runtime.code import ROOT
from pipeline.runtime.config import read_yaml

PARAMS = read_yaml(ROOT / "params.yaml")


def test_stages_wait_for_whose_outputs_they_read() -> None:
    graph = load_graph(ROOT, PARAMS)
    assert set(graph.needs("precompute@digits")) == {"shard", "teacher@regnety_digits"}
    assert "precompute@digits" in graph.needs("train@hard") and "precompute@digits" not in graph.needs("train@plain")
    order = graph.with_all_needed(["evaluate@hard"])
    assert order[:2] == ["index", "shard"] and order[-1] == "evaluate@hard" and "train@plain" not in order
    assert "train@plain" in graph.needs("report")


def test_a_key_follows_parameters_and_what_lies_before() -> None:
    changed = copy.deepcopy(PARAMS)
    changed["students"]["hard"]["alpha"] = 0.25
    changed["caches"]["digits"]["codec"] = "u8"
    names = load_graph(ROOT, PARAMS).stages
    before, after = (load_graph(ROOT, params).keys(names) for params in (PARAMS, changed))
    same = {name for name in before if before[name] == after[name]}
    assert {"shard", "teacher@regnety_digits", "train@plain", "evaluate@plain"} <= same
    assert not {"precompute@digits", "train@hard", "train@soft", "evaluate@hard", "report"} & same


def test_a_key_follows_the_code(tmp_path: Path) -> None:
    for top in ("dvc.yaml", "stages/train.py", "stages/report.py"):
        (tmp_path / top).parent.mkdir(exist_ok=True)
        (tmp_path / top).write_text((ROOT / top).read_text())
    graph = load_graph(tmp_path, PARAMS)
    before = graph.keys(graph.stages)
    (tmp_path / "stages/train.py").write_text("other")
    after = graph.keys(graph.stages)
    assert before["train@hard"] != after["train@hard"] and before["precompute@digits"] == after["precompute@digits"]
    assert before["evaluate@hard"] != after["evaluate@hard"]
