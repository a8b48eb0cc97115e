"""The student: both heads in both modes, starting weights, configs that are refused, and the export that timm loads."""

import json
from pathlib import Path

import pytest
import timm
import torch

from pipeline.base import weights
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.student.export import export as export_student
from pipeline.student.export import live_fraction, load_student
from tests.support.students import CLASSES, DISTILLED, TWIN, VIT, config, make, recipe, views
from tests.support.world import MODEL

torch.set_num_threads(1)  # the models are tiny


@pytest.mark.parametrize("arch", [DISTILLED, TWIN, VIT])
def test_the_export_is_loaded_by_timm_with_equal_outputs(tmp_path, arch):
    model = make(arch).eval()
    chosen = recipe(mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4), crop_fraction=0.9, interpolation="bilinear")
    export_student(model, config(arch), CLASSES, chosen, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    ours = model(views())
    expected = ours.class_logits
    if ours.distillation_logits is not None:
        expected = (expected + ours.distillation_logits) / 2
    assert torch.equal(loaded(views()), expected)
    data = timm.data.resolve_model_data_config(loaded)
    assert data["input_size"] == (3, 32, 32)
    assert (tuple(data["mean"]), tuple(data["std"])) == ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    assert (data["crop_pct"], data["interpolation"], data["crop_mode"]) == (0.9, "bilinear", "center")
    assert list(loaded.pretrained_cfg["label_names"]) == CLASSES
    ours_again = load_student(tmp_path)(views())
    assert torch.equal(ours_again.class_logits, ours.class_logits)


def test_an_export_can_be_given_other_classes_by_timm(tmp_path):
    export_student(make().eval(), config(), CLASSES, recipe(), tmp_path)
    fresh = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert fresh(views()).shape == (4, 3)


def test_two_exports_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        export_student(make(), config(), CLASSES, recipe(), tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_damaged_export_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_student(tmp_path)
    export_student(make(), config(), CLASSES, recipe(), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 4
    file.write_bytes(flipped)
    with pytest.raises(IntegrityError, match="expected weights"):
        load_student(tmp_path)
    file.write_bytes(whole[:-100])
    with pytest.raises(IntegrityError, match="damaged weights"):
        load_student(tmp_path)


@pytest.mark.parametrize("names", [CLASSES[:1], CLASSES[:9], [*CLASSES, "more"], None, [1] * 10])
def test_label_names_that_are_not_one_per_output_are_refused(tmp_path: Path, names: object) -> None:
    export_student(make(), config(), CLASSES, recipe(), tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"label_names": names}))
    with pytest.raises(IntegrityError, match="label_names"):
        load_student(tmp_path)


def test_class_names_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(UsageError, match="10 classes, found 3 class names"):
        export_student(make(), config(), CLASSES[:3], recipe(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_description_is_plain_json_that_names_the_weights(tmp_path):
    model = make()
    export_student(model, config(), CLASSES, recipe(), tmp_path)
    described = json.loads(Path(tmp_path / "config.json").read_text())
    assert described["weights_hash"] == weights.state_hash(weights.read_state(tmp_path / "model.safetensors"))
    assert described["model_args"] == MODEL


def test_the_share_of_live_labels_counts_samples_and_not_epochs() -> None:
    log = [
        {"step": "3", "live_fraction": "0.0"},
        {"step": "9", "live_fraction": "0.5"},
        {"step": "10", "live_fraction": "1.0"},
    ]
    assert live_fraction(log) == pytest.approx(0.4) and live_fraction([]) == 0.0
