"""One step of training and what is kept of it: accumulation, scaled losses, optimisers, the average, log and journal."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score, top_k_accuracy_score
from torch import nn

from pipeline.base import weights
from pipeline.cache.reader import open_cache
from pipeline.evaluation.students import evaluate
from pipeline.runtime.config import validate
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device
from pipeline.student import train
from pipeline.student.export import load_student
from pipeline.student.inputs import Inputs
from pipeline.student.model import Student
from pipeline.teacher.model import computing
from pipeline.training import checkpoint
from pipeline.training.batches import Batch
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Trained
from pipeline.training.step import Stepper, parts, tensor_float32
from pipeline.views.recipe import evaluation
from pipeline.views.validation import validation
from tests.support.world import MODEL, World, make_world, named, student, training

PLAIN = {"lr": 0.01, "warmup_epochs": 0.0, "weight_decay": 0.0, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), samples=160, shared_pairing=3)
    world.label("none", 3)
    return world


def five_steps(world: World, **fields: object) -> TrainConfig:
    return training(world, 5, **({"checkpoint_steps": 2, "batch": 32} | fields), epochs=5.5 * 32 / 160)


def run(world: World, folder: Path, kill_at: int | None = None, **fields: object) -> tuple[list[str], Trained | None]:
    """Losses of five steps as hex floats; ``kill_at`` ends the run at that step, as if killed."""

    class Killed(Exception):
        pass

    seen: list[str] = []

    def observe(step: int, loss: float) -> None:
        seen.append(loss.hex())
        if step == kill_at:
            raise Killed

    inputs = Inputs(world.shards, world.val, 3, open_cache(world.label("none", 3).path), None, None)
    chosen = student("cached", "hard", arch_args={**MODEL, "proj_drop_rate": 0.1, "pos_drop_rate": 0.1})
    config = five_steps(world, **fields)
    try:
        return seen, train.train_student(named(world, config, chosen), inputs, folder, 0, observe)
    except Killed:
        return seen, None


SGD = {"accumulate": 2, "optimizer": {**PLAIN, "name": "sgd", "momentum": 0.8, "scale_lr": False, "clip_grad": 1.0}}
FP16 = {"accumulate": 4, "precision": "fp16", "optimizer": {**PLAIN, "name": "adam", "ema_warmup": True}}


@pytest.mark.parametrize("fields", [SGD, FP16], ids=["accumulated SGD", "accumulated Adam in fp16"])
def test_a_killed_run_with_dropout_goes_on_to_the_same_bits(world: World, tmp_path: Path, fields: dict) -> None:
    whole = run(world, tmp_path / "whole", **fields)
    run(world, tmp_path / "killed", kill_at=3, **fields)
    step, kept = checkpoint.latest(tmp_path / "killed") or (0, {})
    assert step == 2 and ("_growth_tracker" in kept["scaler"]) == ("precision" in fields)
    rest = run(world, tmp_path / "killed", **fields)
    assert rest[0] == whole[0][2:] and whole[1] is not None and rest[1] is not None
    assert rest[1].rows == whole[1].rows
    for a, b in ((rest[1].model.state_dict(), whole[1].model.state_dict()), (rest[1].average, whole[1].average)):
        assert weights.state_hash(a) == weights.state_hash(b)


def write(world: World, trained: Trained, out: Path, **fields: object) -> None:
    made = named(world, five_steps(world, **fields), student("cached", "hard"))
    train.write_student(trained, made, world.shards.classes, out)


def test_the_average_of_the_weights_may_be_the_student(world: World, tmp_path: Path) -> None:
    fields = {"optimizer": PLAIN, "result": "average"}
    _, trained = run(world, tmp_path / "run", **fields)
    assert trained is not None and trained.average is not None
    write(world, trained, tmp_path / "averaged", **fields)
    write(world, trained, tmp_path / "last", optimizer=PLAIN)
    average, last = (weights.state_hash(state) for state in (trained.average, trained.model.state_dict()))
    for folder, expected in {"averaged": average, "averaged/last": last, "last": last, "last/ema": average}.items():
        assert weights.state_hash(load_student(tmp_path / folder).state_dict()) == expected
    found = evaluate(tmp_path / "averaged", {"val": (world.val, evaluation(world.recipe))}, 0)
    right = found.answers["val"].ranks["fused"] < 1
    assert found.beside == "last" and float(trained.rows[-1]["val_top1"]) == right.mean()


def test_a_log_may_hold_all_scores_on_both_splits(world: World, tmp_path: Path) -> None:
    _, trained = run(world, tmp_path / "run", optimizer=PLAIN, score="all")
    assert trained is not None and isinstance(trained.model, Student)
    row, model = trained.rows[-1], trained.model.eval()
    for split, images in {"val": world.val, "train": world.shards}.items():
        seen = list(validation(images, world.recipe, device(), 0))
        labels = torch.cat([part.labels for part in seen]).cpu()
        with torch.inference_mode():
            shares = (torch.cat([model(part.images).fused() for part in seen]) / 2).cpu()
        expected = {
            "top1": top_k_accuracy_score(labels, shares, k=1),
            "top5": top_k_accuracy_score(labels, shares, k=5),
            "f1": f1_score(labels, shares.argmax(1), average="macro", zero_division=0),
            "auc": roc_auc_score(labels, shares / shares.sum(1, keepdim=True), multi_class="ovr"),
        }
        for key, value in expected.items():
            assert row[f"{split}_{key}"] == pytest.approx(value, abs=1e-6), (split, key)
        assert {f"{split}_precision", f"{split}_recall"} <= set(row)


def test_an_average_that_is_not_kept_can_not_be_the_student(world: World) -> None:
    with pytest.raises(UsageError, match="result: average needs"):
        validate(
            TrainConfig,
            {"epochs": 1.0, "batch": 32, "result": "average", "optimizer": {"ema_decay": None}},
            "trainings.t",
        )


def test_the_log_holds_rate_and_gradient_and_times_stay_beside_the_checkpoints(world: World, tmp_path: Path) -> None:
    (_, first), (_, again) = (run(world, tmp_path / name, optimizer=PLAIN) for name in ("a", "b"))
    assert first is not None and again is not None
    for trained, out in ((first, "x"), (again, "y")):
        write(world, trained, tmp_path / out, optimizer=PLAIN)
    logs = [(tmp_path / out / "log.csv").read_bytes() for out in "xy"]
    if device().type != "cuda":  # a GPU adds up the attention's gradient in another order each time
        assert logs[0] == logs[1], "a training run again elsewhere has the same bytes"
    rows = list(csv.DictReader(logs[0].decode().splitlines()))
    assert all(float(row["lr"]) > 0 and float(row["grad_norm"]) > 0 for row in rows)
    times = list(csv.DictReader((tmp_path / "a" / "speed.csv").read_text().splitlines()))
    assert [row["step"] for row in times] == [row["step"] for row in rows]
    assert all(float(row["images_per_s"]) > 0 and 0 <= float(row["waiting"]) <= 1 for row in times)
    before = (tmp_path / "a" / "speed.csv").read_bytes()
    assert run(world, tmp_path / "a", optimizer=PLAIN)[0] == []  # handed out, not trained
    assert (tmp_path / "a" / "speed.csv").read_bytes() == before


def test_the_rate_that_is_used_is_said(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(world, tmp_path / "a", kill_at=0, optimizer=PLAIN)
    run(world, tmp_path / "b", kill_at=0, optimizer=PLAIN | {"scale_lr": False})
    said = capsys.readouterr().out
    assert "adamw, learning rate 0.000625 (0.01 x batch 32 / 512) down to 1e-05" in said
    assert "adamw, learning rate 0.01 (not scaled with the batch)" in said


def test_tensorboard_shows_every_number_of_the_log(world: World, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    _, trained = run(world, tmp_path, optimizer=PLAIN)
    assert trained is not None
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "s"))
    events.Reload()
    for name in {*trained.rows[0], "images_per_s", "waiting"} - {"step"}:
        assert [event.step for event in events.Scalars(name)] == [row["step"] for row in trained.rows]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in trained.rows])


def batch(rows: int, seed: int = 0) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 4, 4, generator=drawn)
    labels = torch.randint(5, (rows,), generator=drawn)
    return Batch(images, labels, labels.flip(0), torch.rand(rows, generator=drawn), labels, None, live=0)


def stepper(**fields: object) -> Stepper:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 5))
    optimizer = {"name": "sgd", "lr": 0.1, "scale_lr": False, "weight_decay": 0.0}
    config = {"epochs": 1.0, "batch": 32, "optimizer": optimizer, **fields}
    return Stepper(model, validate(TrainConfig, config, "training"), torch.device("cpu"))


def loss(model: nn.Module, part: Batch) -> dict[str, torch.Tensor]:
    return {"loss": nn.functional.cross_entropy(model(part.images).float(), part.labels)}


@pytest.mark.parametrize("clip", [None, 0.5])
def test_accumulated_gradients_are_the_average_over_the_whole_batch(clip: float | None) -> None:
    optimizer = {"name": "sgd", "lr": 0.1, "scale_lr": False, "weight_decay": 0.0, "clip_grad": clip}
    once, parted = stepper(optimizer=optimizer), stepper(optimizer=optimizer, accumulate=4)
    for number in range(5):
        values = [way(loss, batch(32, number)) for way in (once, parted)]
        for name in ("loss", "grad_norm"):
            assert values[1][name].item() == pytest.approx(values[0][name].item(), rel=1e-5)
    for a, b in zip(once.model.parameters(), parted.model.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_parts_are_the_batch_in_its_order() -> None:
    whole, seen = batch(32), list(parts(batch(32), 4))
    for name in ("images", "labels", "partner_labels", "lam", "hard"):
        assert torch.equal(torch.cat([getattr(part, name) for part in seen]), getattr(whole, name))
    assert [len(part.labels) for part in seen] == [8] * 4 and seen[0].logits is None


def test_the_noted_norm_is_that_of_the_gradient_before_clipping() -> None:
    optimizer = {"name": "sgd", "lr": 0.1, "scale_lr": False, "weight_decay": 0.0, "momentum": 0.5}
    clipped, other = stepper(optimizer={**optimizer, "clip_grad": 0.01}), stepper(optimizer=optimizer)
    before = [p.detach().clone() for p in clipped.model.parameters()]
    norms = [way(loss, batch(32))["grad_norm"].item() for way in (clipped, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6) and norms[0] > 0.01
    moved = nn.utils.get_total_norm([p.detach() - b for p, b in zip(clipped.model.parameters(), before)])
    assert moved.item() == pytest.approx(0.1 * 1.5 * 0.01, rel=1e-3)  # rate x (1 + Nesterov's momentum) x norm


def test_a_scaled_loss_gives_the_gradient_of_the_plain_one_and_an_overflow_takes_no_step() -> None:
    scaled = stepper(precision="fp16")
    plain = stepper()
    assert scaled(loss, batch(32))["grad_norm"].item() == pytest.approx(
        plain(loss, batch(32))["grad_norm"].item(), rel=0.01
    )
    before = weights.state_hash(scaled.model.state_dict())

    def huge(model: nn.Module, part: Batch) -> dict[str, torch.Tensor]:
        return {"loss": loss(model, part)["loss"] * 1e36}

    assert not torch.isfinite(scaled(huge, batch(32))["grad_norm"])
    assert weights.state_hash(scaled.model.state_dict()) == before
    assert scaled.scaler.get_scale() == 32768.0


def test_tf32_is_for_the_student_and_never_for_the_teacher() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with tensor_float32(True):
        assert matmul.fp32_precision == "tf32"
        with computing("fp32", device()):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    assert matmul.fp32_precision == before
    with tensor_float32(False):
        assert matmul.fp32_precision == before


def test_a_batch_that_can_not_be_parted_equally_is_refused() -> None:
    with pytest.raises(UsageError, match=r"multiple of lanes x accumulate = 24 .*up to 8 processes"):
        validate(TrainConfig, {"epochs": 1.0, "batch": 32, "lanes": 8, "accumulate": 3}, "training")


def test_nothing_is_copied_where_nothing_is_accumulated() -> None:
    whole = batch(8)
    assert [part is whole for part in parts(whole, 1)] == [True]
