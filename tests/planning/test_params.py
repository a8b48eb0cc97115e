"""Configuration: composed, complete, strict; each refusal names the key."""

import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from click.testing import CliRunner

from pipeline.planning.advice import advice, views_read
from pipeline.planning.check import check
from pipeline.planning.params import compose, write_params
from pipeline.planning.pieces import parse_pieces
from pipeline.runtime.config import load, read_yaml, write_yaml
from pipeline.runtime.errors import UsageError
from pipeline.training.config import TrainConfig
from pipeline.training.schedule import Schedule, windows
from pipeline.views.recipe import Recipe
from stages.configure import main

CONFIGS = Path("configs")


def test_the_committed_params_are_what_configure_writes_by_default(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "params.yaml").read_text() == Path("params.yaml").read_text()


@pytest.mark.parametrize("data", sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml")))
def test_every_data_set_composes(data: str) -> None:
    params = compose(CONFIGS, [f"data={data}"])
    assert params["students"] and params["data"]["source"] and not advice(parse_pieces(params))


@pytest.mark.parametrize("student", sorted(path.stem for path in (CONFIGS / "student").glob("deit_*.yaml")))
def test_every_deit_student_composes_with_imagenet(student: str) -> None:
    params = compose(CONFIGS, ["data=imagenet", f"student={student}"])
    assert params["teachers"]["regnety_160"]["arch"] == "regnety_160.deit_in1k"  # timm's default tag is another teacher
    assert params["recipes"]["deit_224"]["mix"] == {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.5}


def test_an_undistilled_student_waits_for_no_teacher_and_no_cache() -> None:
    students = compose(CONFIGS, [])["students"]
    links = ("cache", "teacher", "parent")
    assert [students["plain"][link] for link in links] == ["none", "none", "none"]
    assert [students["soft"][link] for link in links] == ["digits", "none", "none"]
    choices = ["student=hard", "student.cache=none", "student.teacher=regnety_digits"]
    live = compose(CONFIGS, choices)["students"]["hard"]
    assert [live[link] for link in links] == ["none", "regnety_digits", "none"]


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (["data=imagnet"], "data=imagnet: no such file .*; there are .*imagenet"),
        (["epochs=3"], "epochs: no such choice"),
        (
            ["data=imagenet", "teacher=regnety_160,regnety_fitted,regnety_photos", "teacher.fit.epochs=1"],
            "teacher.fit.epochs=1: there is no section fit in teachers.regnety_160; set it in the others: "
            "teachers.regnety_fitted.fit.epochs=1 teachers.regnety_photos.fit.epochs=1$",
        ),
        (["teacher.fti.epochs=1"], "teachers.regnety_digits.fti.epochs: there is no 'fti' in the configuration"),
        (["training.epoch=3"], "trainings.digits.epoch: unknown key"),
        (["trainings.digits.epochs=many"], "trainings.digits.epochs: .*found 'many'"),
        (["training.epochs=.inf"], "epochs: .*finite number"),
        (["training.epochs=1.0e+300"], "epochs: .*found 1e\\+300"),
        (["training.optimizer.lr='1e-3'"], "optimizer.lr: .*found '1e-3'"),
        (
            ["training.batch=512", "training.optimizer.lr=5e-6"],
            r"trainings.digits: optimizer.min_lr: 1e-05 is above the peak learning rate 5e-06 \(lr 5e-06 x batch 512 / 512\)",
        ),
        (
            ["teacher.fit.optimizer.warmup_lr=0.02", "teacher.fit.optimizer.scale_lr=false"],
            r"teachers.regnety_digits.fit: optimizer.warmup_lr: 0.02 is above the peak learning rate 0.016 \(lr, with scale_lr",
        ),
        (['students.soft.note="a\\e[2J"'], r"students.soft: note: expected one line without control .*a\\x1b\[2J"),
        ([f"students.soft.note={'a' * 101}"], r"students.soft.note: String should have at most 100 characters"),
        (
            ["test_set=real"],
            "test_sets.real: data.source digits is not of ImageNet's validation split, for which alone",
        ),
        (
            ["data=cifar10", "test_set=real"],
            "test_sets.real: data.source cifar10 is not of ImageNet's validation split",
        ),
        (["cache.views=35"], "views V = 35 is no multiple of group G = 33"),
        (
            ["teacher.fit.batch=7"],
            "teachers.regnety_digits.fit: batch: expected a multiple of 2 x lanes = 16 .*, found 7",
        ),
        (
            ["training.period=60"],
            "students.soft: cycles through K = 60 views, and its cache holds V = 33",
        ),
        (
            ["training.period=31", "training.repeats=3"],
            "students.plain: period K = 31 views is no multiple of training.repeats r = 3",
        ),
        (
            ["recipe.size=32", "student.arch_args.img_size=24"],
            "students.plain: .*takes 24x24 px, the recipe draws 32x32; set img_size: 32",
        ),
        (["recipe.size=32"], "students.plain: .*patches of 6x6 px do not divide views of 32x32 px"),
        (["students.soft.arch_args.num_heads=5"], "students.soft: .*timm can't build it.*divisible by num_heads"),
        (["teacher.arch_args.depth=-1"], "timm can't build it"),
        (
            ["recipe.shared_pairing=3", "training.batch=32"],
            "students.soft: batch = 32 over lanes = 8 gives 2 pairs per lane and step, fewer than repeats r = 3",
        ),
        (["training.batch=48", "training.accumulate=4"], "batch: expected a multiple of lanes x accumulate = 32"),
        (["training.repeats=2"], "r = 2 does not divide cache.group G = 33"),
        (["cache.codec=none"], "students.soft: soft distillation needs logits"),
        (["cache.codec=top10"], "caches.digits: codec top10: K must be below the number of classes, found 10"),
        (
            ["student=hard", "student.cache=none", "student.teacher=regnety_digits", "student.codec=top64"],
            "students.hard: codec top64: K must be below",
        ),
        (["cache.codec=top3"], "caches.digits.codec: expected none, u8, f16, or topK with K from 4 to 255, .*'top3'"),
        (["recipe.policy=rand-m9-w0x"], "recipes.digits"),
        (["data.block=63"], "data"),
        (["teacher.arch=regnety_16"], "did you mean"),
        (["nonsense"], "expected name=value"),
    ],
)
def test_a_wrong_choice_is_refused_with_exit_code_2_and_the_key(choices: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refusal:
        check(compose(CONFIGS, choices), {}, files=False)
    assert refusal.value.exit_code == 2


def test_a_constant_learning_rate_is_allowed_and_a_warm_up_of_no_epoch_has_no_rate() -> None:
    rates = [
        "training.batch=1000",
        "training.lanes=4",
        "training.optimizer.lr=5.12e-6",
        "training.optimizer.warmup_epochs=0",
    ]
    found = compose(CONFIGS, [*rates, "training.optimizer.warmup_lr=0.1"])["trainings"]["digits"]["optimizer"]
    assert found["min_lr"] == 1e-5 and found["warmup_lr"] == 0.1


def test_a_soft_student_at_a_temperature_where_its_codec_loses_much_is_warned_with_the_figure(tmp_path: Path) -> None:
    out, choices = tmp_path / "params.yaml", ["student=soft", "cache.codec=top4"]
    result = CliRunner().invoke(main, ["--params", str(out), *choices, "student.tau=3.0"])
    assert result.exit_code == 0, result.output
    told = (
        "warning: students.soft: codec top4 loses about 0.21 nats at tau = 3 .* top16 loses 0.051, u8 next to nothing"
    )
    assert re.search(told, result.output)
    assert re.search(told, CliRunner().invoke(main, ["--check", "--params", str(out)]).output)
    for quiet in (["student.tau=20.0"], ["cache.codec=u8"], ["student=hard"]):
        assert "warning" not in CliRunner().invoke(main, ["--params", str(out), *choices, *quiet]).output


TEACHER_BESIDE = [f"students.{name}.teacher=regnety_digits" for name in ("soft", "hard", "hard_token")]


@pytest.mark.parametrize(
    ("choices", "sentences"),
    [
        (["training.epochs=32"], []),  # eleven cycles in 3 views each are touched
        (
            ["training.epochs=18", "training.period=null"],
            ["caches.digits: holds V = 33 views, and its students read at most 21 of them .*period 33.* the other 12"],
        ),
        (["training.epochs=60", "training.period=15"], ["caches.digits: .* at most 15 of them .*epochs 60, period 15"]),
        (
            ["training.epochs=10", "training.labelled_per_class=5", *TEACHER_BESIDE],
            ["caches.digits: .* at most 15 of them"],
        ),
        (["data=folder", "training.epochs=5"], ["caches.photos: holds V = 30 views, .* at most 9 of them"]),
        (["student=plain"], ["caches.digits: no student reads it, so its 33 views"]),
        (
            ["recipe.shared_pairing=3", "training.repeats=11", "training.lanes=1"],
            ["recipes.digits.shared_pairing is 3 and trainings.digits.repeats is 11: .* set shared_pairing to 11"],
        ),
        (["recipe.shared_pairing=3", "training.repeats=1"], []),
        (["recipe.shared_pairing=3", "training.lanes=4"], []),
    ],
)
def test_views_that_nobody_reads_and_pairs_that_stand_apart_are_told(choices: list[str], sentences: list[str]) -> None:
    found = advice(parse_pieces(compose(CONFIGS, choices)))
    assert len(found) == len(sentences) and all(map(re.search, sentences, found)), found


def test_a_training_reads_no_more_views_than_its_warning_says() -> None:
    """By the schedule itself: 1,437 samples in blocks of 64, the last one odd, and small ones."""
    for epochs, repeats, lanes, window, blocks in (
        (18.0, 3, 8, 1, [64] * 22 + [29]), (32.0, 3, 8, 1, [64] * 22 + [29]), (9.0, 1, 2, 4, [64] * 8 + [1]),
    ):  # fmt: skip
        how = TrainConfig(epochs=epochs, batch=32, lanes=lanes, window=window, repeats=repeats)
        order = Schedule(0, tuple(blocks), repeats, 10**6 * repeats, lanes, window, 32)
        drawn = windows(order, range(lanes), 0, order.steps(epochs))
        seen = max(visit.first_view + repeats for one in drawn for visit in one.visits)
        most = views_read(how, 1000, len(blocks), (sum(blocks) % 2) / sum(blocks))
        assert seen <= most <= seen + repeats


def test_a_key_given_twice_and_a_missing_section_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("views: {seed: 1, seed: 2}\n")
    with pytest.raises(UsageError, match="key given twice: seed"):
        read_yaml(path)
    path.write_text("data: {}\n")
    with pytest.raises(UsageError, match=r"no section 'recipes\.a'"):
        load(path, "recipes.a", Recipe)
    with pytest.raises(UsageError, match="no such file; write it with"):
        load(tmp_path / "nothing.yaml", "recipes.a", Recipe)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"views: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UsageError):
        read_yaml(path)
    assert not (tmp_path / "made").exists()


def test_configs_say_what_they_are_for() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        assert path.read_text().startswith("# "), path
        assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (["students.plain.arch_args={img"], "not valid YAML"),
        (["students.plain=3"], "students.plain: Input should be an object"),
        (
            ["training.batch=30", "training.lanes=2"],
            "trainings.digits: batch: expected a multiple of 2 x lanes = 4 .*, found 30",
        ),
    ],
)
def test_malformed_overrides_are_refused_and_not_a_traceback(choices: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        compose(CONFIGS, choices)


def test_an_edited_params_file_is_checked_whole_before_any_work(tmp_path: Path) -> None:
    params = compose(CONFIGS, [])
    params["trainings"]["digits"]["epochz"] = 3
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "trainings.digits.epochz: unknown key" in result.output
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text() + "stduents: {}\n")
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "stduents" in result.output
    result = CliRunner().invoke(main, ["--params", str(tmp_path / "none" / "params.yaml")])
    assert result.exit_code == 2 and "No such file or directory; correct the path" in result.output
    params["trainings"]["digits"].pop("epochz")
    params["teachers"]["regnety_digits"]["weights"] = str(tmp_path / "none.pth")
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "teachers.regnety_digits.weights: no such file" in result.output
    model = timm.create_model("test_byobnet", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    params["teachers"]["regnety_digits"] |= {
        "arch": "test_byobnet",
        "arch_args": {},
        "weights": str(tmp_path / "seven.pth"),
    }
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "expected (10, " in result.output and "number of classes" in result.output


def test_weights_replaced_in_place_change_what_the_stages_depend_on(tmp_path: Path) -> None:
    params = compose(CONFIGS, [])
    for name, classes in (("a.pth", 10), ("b.pth", 10)):
        torch.manual_seed(len(name) + ord(name[0]))
        torch.save(timm.create_model("test_byobnet", num_classes=classes).state_dict(), tmp_path / name)
    params["teachers"]["regnety_digits"] |= {
        "arch": "test_byobnet",
        "arch_args": {},
        "weights": str(tmp_path / "a.pth"),
    }
    write_params(params, tmp_path / "params.yaml", [])
    arguments = ["--check", "--params", str(tmp_path / "params.yaml"), "--weights", str(tmp_path / "work" / "weights")]
    seen = []
    for source in ("a.pth", "a.pth", "b.pth"):
        (tmp_path / source).replace(tmp_path / "a.pth")
        assert CliRunner().invoke(main, arguments).exit_code == 0
        seen.append((tmp_path / "work" / "weights" / "teachers.regnety_digits.weights").read_text())
    assert seen[0] == seen[1] != seen[2]
    graph = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    assert "work/weights/teachers.${key}.weights" in graph["teacher"]["do"]["deps"]
    assert "work/weights/students.${key}.initial" in graph["train"]["do"]["deps"]


def test_a_hub_teacher_of_other_classes_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    for name in ("ant", "bee", "cat"):
        (tmp_path / "train" / name).mkdir(parents=True)
    params = compose(CONFIGS, ["data=folder", "teacher=regnety_160"])
    write_params(params, tmp_path / "params.yaml", [])
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and "the data has 3 classes, its weights timm have 1000" in result.output


@pytest.mark.parametrize("students", [None, [], {}, {"a/b": {}}, {"a.b": {}}])
def test_students_that_can_name_no_stage_are_refused(students: object) -> None:
    with pytest.raises(UsageError, match=r"^students"):
        check(compose(CONFIGS, []) | {"students": students}, {})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"students.soft.cache": "cifar"},
            "students.soft.cache: there is no 'cifar' under caches (there is digits, none)",
        ),
        ({"students.soft.recipe": "big"}, "students.soft.cache: digits holds views of recipe digits"),
        ({"students.soft.teacher": "other"}, "students.soft.teacher: other is not the teacher of cache digits"),
        ({"teachers.other.student": "soft", "caches.digits.teacher": "other"}, "waits for itself"),
        ({"students.soft.parent": "soft"}, "students.soft: waits for itself"),
        ({"students.soft.cache": "none"}, "a distilled student names a cache or a teacher"),
    ],
)
def test_pieces_that_do_not_go_together_are_refused(change: dict[str, str], sentence: str) -> None:
    params = compose(CONFIGS, [])
    params["recipes"]["big"] = params["recipes"]["digits"] | {"size": 36}
    params["teachers"]["other"] = {"recipe": "digits", "arch": "regnety_002", "fit": {"epochs": 1, "batch": 16}}
    if "teachers.other.student" in change:
        params["teachers"]["other"] = {"recipe": "digits", "arch": "regnety_002"}
    for key, value in change.items():
        section, piece, name = key.split(".")
        params[section][piece] = params[section][piece] | {name: value}
    with pytest.raises(UsageError, match=re.escape(sentence)):
        parse_pieces(params)


def test_all_problems_are_told_at_once() -> None:
    params = compose(CONFIGS, [])
    params["students"]["soft"] |= {"alpha": 2.0}
    params["trainings"]["digits"] |= {"epochs": -1}
    params["caches"]["none"] = params["caches"].pop("digits")
    with pytest.raises(UsageError) as refusal:
        parse_pieces(params)
    for part in ("students.soft.alpha", "trainings.digits.epochs", "caches.none: expected a name"):
        assert part in str(refusal.value)


def test_no_line_of_params_is_rewrapped_by_dvc_and_students_stand_in_block_style() -> None:
    for data in ("digits", "imagenet", "cifar10", "folder"):
        text = write_yaml(compose(CONFIGS, [f"data={data}"]))
        assert max(map(len, text.splitlines())) <= 80
        assert "{" not in text.replace("{}", "")


@pytest.mark.parametrize("scale", ["full", "demo"])
@pytest.mark.parametrize("study", sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml")))
def test_every_study_composes_at_both_scales(study: str, scale: str) -> None:
    pieces = check(compose(CONFIGS, [f"study={study}", f"scale={scale}"]), {}, files=False)
    assert not advice(pieces)
    for name, student in pieces.students.items():  # fine-tuned from a student of the same kind, at another size
        if student.parent != "none":
            parent = pieces.students[student.parent]
            assert parent.token == student.token and (parent.recipe != student.recipe or study == "transfer"), name


def test_a_study_takes_overrides_and_another_data_set() -> None:
    choices = ["study=distillation", "scale=demo", "data=cifar10", "training.epochs=1", "students.tiny_soft.tau=2.0"]
    params = compose(CONFIGS, choices)
    assert params["data"]["source"] == "cifar10" and params["students"]["tiny_soft"]["tau"] == 2.0
    assert {entry["epochs"] for entry in params["trainings"].values()} == {1}
    for data, expected in {"cifar10": 99.1, "cifar100": 90.8, "folder": None}.items():
        found = compose(CONFIGS, ["study=transfer", f"data={data}"])["students"]["fine_tuned"]
        assert found["initial"] == "timm" and found.get("reference") == expected
        assert ("from_scratch" in compose(CONFIGS, ["study=transfer", f"data={data}"])["students"]) == (
            data == "cifar10"
        )
    with pytest.raises(UsageError, match=r"study=tables: no such file .*; there are ablation, cifar10, distillation"):
        compose(CONFIGS, ["study=tables"])


def test_a_name_that_a_study_would_pass_over_is_refused(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    text = (configs / "study" / "transfer.yaml").read_text()
    (configs / "study" / "transfer.yaml").write_text(text.replace("cifar100:", "cifar-100:") + "change: {demoo: {}}\n")
    with pytest.raises(UsageError, match="study=transfer: there is no data set cifar-100, no section change;"):
        compose(configs, ["study=transfer"])


@pytest.mark.parametrize("choice", ["student=hard", "recipe=digits", "test_set=real"])
def test_a_choice_that_a_study_would_pass_over_is_refused(choice: str) -> None:
    with pytest.raises(UsageError, match="a study brings its own pieces"):
        compose(CONFIGS, ["study=distillation", choice])
    with pytest.raises(UsageError, match="only a study has one"):
        compose(CONFIGS, ["scale=demo"])
