"""What a run would cost, before it is made."""

from pathlib import Path

from pipeline.planning.cost import describe_cost, plan
from pipeline.planning.params import compose
from pipeline.planning.pieces import parse_pieces
from tests.support.world import make_world


def test_plan_says_what_a_person_can_read_and_what_later_changes_cost(tmp_path: Path) -> None:
    world = make_world(tmp_path, samples=160)
    pieces = parse_pieces(compose(Path("configs"), ["student=plain", "cache.views=33"]))
    costs = plan(world.work, pieces, None, 1, probe=4)
    text = describe_cost(costs)
    assert "KL" not in text and "as soon as the teacher is there: dvc repro teacher" in text
    assert "e-0" not in text and "0.00 GB" not in text and "labels everything anew (" in text
    assert "teacher is fitted here: an added image or a changed fit makes another teacher" in text
    costs["teacher"]["fitted_here"] = False
    assert "the teacher is fixed: it stays as it is when images are added" in describe_cost(costs)
