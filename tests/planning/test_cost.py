"""What a run would cost, before it is made."""

import re
from pathlib import Path

import pytest

from pipeline.planning.cost import describe_cost, plan
from pipeline.planning.params import compose
from pipeline.planning.pieces import parse_pieces
from pipeline.runtime.machine import device
from tests.support.world import make_world


def test_plan_says_what_a_person_can_read_and_what_later_changes_cost(tmp_path: Path) -> None:
    world = make_world(tmp_path, samples=160)
    pieces = parse_pieces(compose(Path("configs"), ["student=plain", "cache.views=33"]))
    costs = plan(world.work, pieces, None, 1, probe=4)
    text = describe_cost(costs)
    total = costs["hours"]
    named = ("fitting", "labels", "trainings", "scores", "starting")
    assert total["total"] == pytest.approx(sum(total[name] for name in named)) and min(map(total.get, named)) > 0
    assert total["low"] <= total["total"] <= total["high"] and "total: about" in text and total["stages"] == 8
    assert "KL" not in text and "as soon as the teacher is there: dvc repro teacher" in text
    assert "e-0" not in text and "0.00 GB" not in text and "labels everything anew (" in text
    assert "teacher is fitted here: an added image or a changed fit makes another teacher" in text
    costs["teacher"]["fitted_here"] = False
    assert "the teacher is fixed: it stays as it is when images are added" in describe_cost(costs)


def test_plan_measures_packing_and_the_device_where_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_ENGINE", "cuda" if device().type == "cuda" else "cuda-on-cpu")
    world = make_world(tmp_path, samples=160)
    text = describe_cost(plan(world.work, parse_pieces(compose(Path("configs"), ["student=plain"])), None, 1, probe=4))
    assert re.search(
        rf"drawing: \S+ ms per view and core to decode and pack, \S+ ms on {device()} to draw; ring of", text
    )
