"""Configuration: composed, complete, strict; each refusal names the key."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.base.sums import summed_directory
from pipeline.planning.advice import advice
from pipeline.planning.check import check
from pipeline.planning.params import compose
from pipeline.planning.pieces import parse_pieces
from pipeline.runtime.config import read_yaml, write_yaml
from pipeline.runtime.errors import UsageError
from pipeline.training.schedule import lanes_of
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
        (["training.epochs=.inf"], r"epochs=\.inf: .*finite number"),
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


def test_no_line_of_params_is_rewrapped_by_dvc_and_students_stand_in_block_style() -> None:
    for data in ("digits", "imagenet", "cifar10", "folder"):
        text = write_yaml(compose(CONFIGS, [f"data={data}"]))
        assert max(map(len, text.splitlines())) <= 80
        assert "{" not in text.replace("{}", "")


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


def test_another_model_drops_what_the_preset_said_of_the_old_one_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = compose(CONFIGS, ["students.soft.arch=resnet18", "teacher.arch=resnet18"])
    assert "drop_path" not in found["students"]["soft"]
    assert found["students"]["soft"]["arch"] == "resnet18" and found["students"]["soft"]["arch_args"] == {}
    assert found["students"]["plain"]["arch_args"] != {}
    told = capsys.readouterr().out
    assert "students.soft: resnet18 takes the place of deit_tiny_patch16_224, whose arch_args {" in told
    assert "students.plain" not in told
    kept = compose(CONFIGS, ["students.soft.arch_args.depth=2", "students.soft.arch=vit_tiny_patch16_224"])
    assert kept["students"]["soft"]["arch_args"] == {"depth": 2}
    same = compose(CONFIGS, ["students.soft.arch=deit_tiny_patch16_224"])
    assert same == compose(CONFIGS, [])


def test_a_frozen_teacher_keeps_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = CONFIGS.absolute()
    monkeypatch.chdir(tmp_path)
    arguments = ["data=folder", "freeze=regnety_photos", "--configs", str(configs)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2 and "fit it first: dvc repro teacher@regnety_photos" in refused.output
    assert "no such teacher" in CliRunner().invoke(main, ["freeze=x", "--configs", str(configs)]).output
    fitted = Path("work/teachers/regnety_photos")
    with summed_directory(fitted, ("model.safetensors",)) as fresh:
        (fresh / "model.safetensors").write_bytes(b"weights")
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    teacher = read_yaml(Path("params.yaml"))["teachers"]["regnety_photos"]
    assert Path(teacher["weights"]).read_bytes() == b"weights" and teacher["fit"]
