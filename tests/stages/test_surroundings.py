"""Surroundings that change under a job: shards replaced, images or git missing, and what a person reads of it."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import nn

from pipeline.data.shards import Shards
from pipeline.planning.check import refused_by_dvc
from pipeline.planning.cost import describe_cost, plan
from pipeline.planning.params import compose
from pipeline.planning.pieces import parse_pieces
from pipeline.report.inspect_cache import inspect_cache, readable_cache
from pipeline.report.table import table
from pipeline.runtime import units
from pipeline.runtime.config import read_yaml, validate, write_yaml
from pipeline.runtime.errors import IntegrityError, RetryError
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import make_average, update_average
from pipeline.training.schedule import lanes_of
from stages.fit_teacher import main as fit_teacher
from stages.index import main as index
from tests.support.world import World, make_world

CONFIGS = Path("configs")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), samples=160)


def test_shards_that_a_dvc_repro_removes_or_replaces_end_a_job_with_75(world: World, tmp_path: Path) -> None:
    root = tmp_path / "shards" / "train"
    shutil.copytree(world.root / "shards" / "train", root)
    opened, other = Shards.open(root), world.root / "shards" / "val"
    tar, manifest = (root / "000000.tar").read_bytes(), (root / "manifest.json").read_bytes()
    (root / "000000.tar").unlink()
    with pytest.raises(IntegrityError, match=r"000000\.tar: No such file"):  # the manifest is as it was: damage
        opened.read(opened.blocks[0])
    (root / "manifest.json").unlink()
    with pytest.raises(RetryError, match=r"removed or replaced .*most likely by a dvc repro.*--shards") as found:
        opened.read(opened.blocks[0])
    assert found.value.exit_code == 75
    shutil.rmtree(root)
    shutil.copytree(other, root)
    with pytest.raises(RetryError, match="removed or replaced"):
        opened.read(opened.blocks[0])
    (root / "manifest.json").write_bytes(manifest)
    (root / "000000.tar").write_bytes(tar)
    index_file = root / "index" / "000000.npz"
    index_file.unlink()
    with pytest.raises(IntegrityError, match=r"000000\.npz: No such file"):
        Shards.open(root).read(opened.blocks[0])


def test_a_machine_without_the_images_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text(write_yaml(compose(CONFIGS, ["data=folder"])))
    found = CliRunner().invoke(index, ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "i.tsv")])
    assert found.exit_code == 2 and "dvc repro --single-item train@NAME" in found.output


def test_a_work_folder_that_dvc_will_refuse_is_said_with_the_command_that_helps(tmp_path: Path) -> None:
    project, disk = tmp_path / "project", tmp_path / "disk"
    for folder in (project / ".git", project / ".dvc", project / "here", disk):
        folder.mkdir(parents=True)
    assert refused_by_dvc(project) == ""
    (project / "work").symlink_to(project / "here")
    assert refused_by_dvc(project) == ""
    (project / "work").unlink()
    (project / "work").symlink_to(disk)
    assert "dvc config --local core.no_scm true" in refused_by_dvc(project)
    (project / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    assert refused_by_dvc(project) == ""


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_every_shipped_config_fits_1_2_4_and_8_ranks(world_size: int) -> None:
    choices = [[f"data={path.stem}"] for path in sorted((CONFIGS / "data").glob("*.yaml"))]
    studies = sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))
    choices += [[f"study={study}", f"scale={scale}"] for study in studies for scale in ("full", "demo")]
    for chosen in choices:
        params = compose(CONFIGS, chosen)
        loops = {f"trainings.{name}": entry for name, entry in params["trainings"].items()}
        loops |= {f"teachers.{name}": t["fit"] for name, t in params["teachers"].items() if t.get("fit")}
        for key, entry in loops.items():
            owned = [lane for rank in range(world_size) for lane in lanes_of(rank, world_size, entry["lanes"], key)]
            assert owned == list(range(entry["lanes"])), (chosen, key)


def test_ranks_that_do_not_divide_a_fits_lanes_name_its_own_key(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(write_yaml(compose(CONFIGS, ["teacher.fit.lanes=1"])))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    where = ["--params", str(tmp_path / "params.yaml"), "--shards", str(world.root / "shards"), "--work", str(tmp_path)]
    found = CliRunner().invoke(fit_teacher, ["--teacher", "regnety_digits", *where])
    assert found.exit_code == 2
    assert "world size 2 does not divide teachers.regnety_digits.fit.lanes = 1" in found.output


def test_numbers_come_in_units_that_people_use() -> None:
    sizes = {0: "0 B", 512: "512 B", 66_100: "66.1 kB", 999_600: "1 MB", 1.5e9: "1.5 GB", 3.2e18: "3200 PB"}
    assert {count: units.size(count) for count in sizes} == sizes
    times = {0: "0 s", 0.0032: "3.2 ms", 57.24: "57.2 s", 59.7: "1 min", 250: "4 min 10 s", 7500: "2 h 5 min"}
    times |= {172_800 + 90_000: "3 days 1 h", 4e-7: "0.0004 ms"}
    assert {seconds: units.duration(seconds) for seconds in times} == times
    numbers = {1234.5678: "1235", 0.833912345: "0.8339", 1.0e-5: "1e-05", 12: "12", 123456.7: "123457"}
    assert {value: units.number(value) for value in numbers} == numbers


def test_the_table_has_room_for_long_names_and_cuts_what_the_terminal_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a_student_with_a_name_of_many_words_that_goes_on_and_on_and_on_and_on_for_a_hundred_characters"
    shares = {"top1": 95.123456, "interval": [93.1, 96.7]}
    row = shares | {"distillation": "soft", "teacher": "t", "agreement": {"t": {"percent": 90.0}}}
    summary = {"teachers": {"regnety_of_some_length": shares}, "students": {"a": row, long: row}}
    for columns in (80, 110, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = table(summary).splitlines()
        assert all(len(line) <= columns for line in lines)
        assert len({line.index("95.12") for line in lines if "95.12" in line}) == 1
        assert (long in lines[-1]) == (columns == 300) and ("…" in lines[-1]) == (columns < 300)


def test_inspect_and_plan_say_what_a_person_can_read_and_what_later_changes_cost(world: World, tmp_path: Path) -> None:
    found = inspect_cache(world.label("none", 3).path, None)
    shown = write_yaml(readable_cache(found))
    assert "null" not in shown and "B" in readable_cache(found)["bytes"]["hard"]
    assert found["answers"]["top1"] is None and "top1" not in readable_cache(found)["answers"]
    pieces = parse_pieces(compose(CONFIGS, ["student=plain", "cache.views=33"]))
    costs = plan(world.shards, pieces, None, 1, probe=4)
    text = describe_cost(costs)
    assert "e-0" not in text and "0.00 GB" not in text and "labels everything anew (" in text
    assert "teacher is fitted here: an added image or a changed fit makes another teacher" in text
    costs["teacher"]["fitted_here"] = False
    assert "the teacher is fixed: it stays as it is when images are added" in describe_cost(costs)


@pytest.mark.parametrize("name", ["digits", "photos", "cifar"])
def test_the_average_of_a_short_training_follows_its_weights(name: str) -> None:
    """90 steps under the shipped decay: the average is of the last weights, not of the first ones."""
    how = validate(TrainConfig, read_yaml(CONFIGS / "training" / f"{name}.yaml"), name).optimizer
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = make_average(model, how)
    assert average is not None
    for step in range(90):
        nn.init.constant_(model.weight, float(step >= 10))  # random weights in the first steps, then trained ones
        update_average(average, model, how, step)
    assert average.module.weight.item() > 0.95
    assert how.ema_decay is not None and 1 - how.ema_decay**80 < 0.95  # without the warm-up it would not
