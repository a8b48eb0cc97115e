"""The teacher: loaded strictly, constant shape, precision, normalisation, and what it refuses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from pipeline.base import weights
from pipeline.runtime.config import validate
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.machine import device
from pipeline.teacher import fit
from pipeline.teacher.config import NamedTeacher, TeacherConfig
from pipeline.teacher.model import Teacher, computing, create_teacher, read_teacher_initial, start_from
from pipeline.views.recipe import Recipe

torch.set_num_threads(1)  # the models are tiny
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARCH = "test_byobnet"  # 0.5 M parameters, with batch norm


def config(**fields: Any) -> TeacherConfig:
    return validate(TeacherConfig, {"recipe": "r", "fit": {}, "arch": ARCH, **fields}, "teacher")


def views(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(device())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_teacher(config(), 10, pretrained=False)
    for module in model.modules():  # else eval mode has nothing of its own
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    nn.init.normal_(model.head.fc.weight)  # logits of the size that a trained model has
    path = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    weights.write_state(path, model.state_dict())
    return path


def load(file: Path, classes: int = 10, batch: int = 8, mean=MEAN, std=STD, **fields: Any) -> Teacher:
    recipe = Recipe(seed=0, size=32, mean=tuple(mean), std=tuple(std))
    return Teacher.load(config(**fields), file, classes, recipe, batch, device())


def plain(file: Path, images: torch.Tensor) -> torch.Tensor:
    """The reference: timm's model in eval mode, by hand, without TF32 on a GPU."""
    model = timm.create_model(ARCH, num_classes=10).eval()
    model.load_state_dict(weights.read_state(file))
    model.to(device())
    with torch.no_grad(), computing("fp32", device()):
        return model(images)


def test_its_logits_are_the_models(file):
    assert torch.equal(load(file).predict(views(8)), plain(file, views(8)))


def test_a_row_has_the_same_bits_in_any_short_batch_and_place(file):
    model, images = load(file), views(8)
    whole = model.predict(images)
    assert torch.equal(model.predict(images[:3]), whole[:3])
    assert torch.equal(model.predict(images[5:6]), whole[5:6])
    assert torch.equal(model.predict(images.flip(0)), whole.flip(0))


def test_its_logits_may_stand_in_a_loss(file):
    weight = torch.ones(10, 10, device=device(), requires_grad=True)
    (load(file).predict(views(2)) @ weight).sum().backward()
    assert weight.grad is not None


def test_another_normalisation_is_one_affine(file):
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def normalised(mean, std):
        return ((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).to(device())

    half = (0.5, 0.5, 0.5)
    found = load(file, mean=half, std=half).predict(normalised(half, half))
    assert torch.allclose(found, plain(file, normalised(MEAN, STD)), atol=1e-4)
    assert not torch.allclose(found, plain(file, normalised(half, half)), atol=0.1)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 0.0), ("bf16", 0.06), ("fp16", 0.006)])
def test_precisions_differ_by_what_they_round(file, precision, limit):
    found = load(file, precision=precision).predict(views(8))
    difference = (found - plain(file, views(8))).abs().max().item()
    assert found.dtype == torch.float32
    assert difference <= limit
    assert (difference > 0) == (precision != "fp32")


def test_the_callers_autocast_and_tf32_do_not_reach_it(file):
    model = load(file)
    expected = model.predict(views(8))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # on the CPU: bf16 in oneDNN
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.predict(views(8)), expected)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        with computing("fp32", device()):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    assert not torch.backends.cudnn.deterministic


def test_channels_last_gives_the_same_answers(file):
    found = load(file, channels_last=True).predict(views(8))
    assert torch.allclose(found, plain(file, views(8)), atol=1e-4)


def test_train_mode_is_refused(file):
    model = load(file)
    next(module for module in model.model.modules() if isinstance(module, nn.BatchNorm2d)).train()
    with pytest.raises(IntegrityError, match=r"test_byobnet: it is in train mode"):
        model.predict(views(2))


def test_changed_buffers_are_seen_and_predicting_changes_none(file):
    model = load(file)
    before = [buffer.clone() for buffer in model.model.buffers()]
    model.predict(views(8))
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.buffers(), strict=True))
    with torch.no_grad():
        model.model.train()(views(8))
    model.model.eval()
    with pytest.raises(IntegrityError, match="batch-norm statistics"):
        model.predict(views(8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(file, value):
    model = load(file)
    model.predict(views(2))
    poisoned = views(4)
    poisoned[2, 0, 3, 3] = value
    with pytest.raises(IntegrityError, match=r"not finite for 1 of 4 views \(first: row 2\)"):
        model.predict(poisoned)


def test_weights_of_nan_are_refused_when_loading(file, tmp_path):
    state = weights.read_state(file)
    state["head.fc.weight"][3] = float("nan")
    with pytest.raises(IntegrityError, match=r"not written: damaged weights: nan or inf"):
        weights.write_state(tmp_path / "nan.safetensors", state)
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(IntegrityError, match=r"damaged weights: nan or inf in head\.fc\.weight"):
        load(tmp_path / "nan.safetensors")


def test_a_wrong_class_count_is_refused_when_loading(file):
    with pytest.raises(UsageError, match=r"teacher test_byobnet.*head\.fc\.weight: expected \(7, .*found \(10, "):
        load(file, classes=7)


def test_batches_beyond_the_constant_shape_are_refused(file):
    for n in (0, 9):
        with pytest.raises(ValueError, match=f"expected 1 to 8 views, found {n}"):
            load(file).predict(views(n))


def test_a_fixed_input_size_is_explained(tmp_path):
    fields = {"arch": "deit_tiny_patch16_224", "arch_args": {"img_size": 32, "depth": 1}}
    weights.write_state(tmp_path / "v.safetensors", create_teacher(config(**fields), 10, False).state_dict())
    model = load(tmp_path / "v.safetensors", **fields)
    assert model.predict(views(1)).shape == (1, 10)
    with pytest.raises(UsageError, match=r"can't take 64 px views.*img_size"):
        model.predict(views(1, size=64))


def test_the_identity_is_json_and_moves_with_everything_that_moves_a_logit(file, tmp_path):
    state = weights.read_state(file)
    state["head.fc.bias"][0] += 1
    weights.write_state(tmp_path / "other.safetensors", state)
    loaded = [
        load(file),
        load(tmp_path / "other.safetensors"),
        load(file, batch=4),
        load(file, precision="bf16"),
        load(file, channels_last=True),
        load(file, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
        Teacher.load(config(mean=[0.5, 0.5, 0.5]), file, 10, Recipe(seed=0, size=32), 8, device()),
    ]
    texts = [json.dumps(model.identity(), sort_keys=True) for model in loaded]
    assert texts[0] == texts[5]  # the recipe's normalisation is the recipe's
    assert len(set(texts)) == 6
    assert texts[0] == json.dumps(load(file, recipe="renamed").identity(), sort_keys=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arch": "regnety_161"}, "did you mean regnety_16"),
        ({"arch": "regnety_160", "weights": "timm"}, r"with its tag.*regnety_160\.deit_in1k"),
        ({"arch": "regnety_160.deit_in2k"}, r"no weights tagged 'deit_in2k'; it has .*regnety_160\.deit_in1k"),
        ({"arch_args": {"num_classes": 3}}, "num_classes is set by the pipeline"),
    ],
)
def test_models_that_timm_does_not_know_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        create_teacher(config(**fields), 10, pretrained="weights" in fields)


def test_bad_arguments_of_a_model_are_refused():
    with pytest.raises(UsageError, match=r"test_byobnet: timm can't build it.*embed_dimm"):
        create_teacher(config(arch_args={"embed_dimm": 3}), 10, pretrained=False)


def test_local_weights_are_loaded_strictly(file, tmp_path):
    torch.save({"model": weights.read_state(file), "epoch": 1}, tmp_path / "w.pth")
    model = create_teacher(config(weights=str(tmp_path / "w.pth")), 10, pretrained=True)
    assert weights.state_hash(model.state_dict()) == weights.state_hash(weights.read_state(file))
    with pytest.raises(UsageError, match=r"w\.pth: the weights do not fit.*expected \(5, "):
        create_teacher(config(weights=str(tmp_path / "w.pth")), 5, pretrained=True)
    with pytest.raises(UsageError, match=r"names no weights.*stages\.fit_teacher"):
        create_teacher(config(), 10, pretrained=True)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hugging Face hub, offline: nothing is ever downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(hub: Path, repository: str, contents: dict[str, bytes]) -> None:
    """Files as the hub's own cache keeps them: refs/main names a snapshot."""
    home = hub / f"models--{repository.replace('/', '--')}"
    commit = hashlib.sha1(repository.encode()).hexdigest()
    for name, content in {
        "refs/main": commit.encode(),
        **{f"snapshots/{commit}/{n}": c for n, c in contents.items()},
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)


def test_hub_weights_of_a_tagged_name_come_from_the_hubs_cache(hub):
    torch.manual_seed(1)
    source = timm.create_model("test_byobnet.r160_in1k")
    weights.write_state(hub / "w.safetensors", source.state_dict())
    put(hub, "timm/test_byobnet.r160_in1k", {"model.safetensors": (hub / "w.safetensors").read_bytes()})
    chosen = config(arch="test_byobnet.r160_in1k", weights="timm")
    found = create_teacher(chosen, 1000, pretrained=True)
    assert weights.state_hash(found.state_dict()) == weights.state_hash(source.state_dict())
    with pytest.raises(UsageError, match="the data has 10 classes, its weights timm have 1000"):
        create_teacher(chosen, 10, pretrained=True)


def test_any_hub_repository_may_be_named_if_it_holds_the_architecture(hub, file):
    described = {
        "architecture": ARCH,
        "num_classes": 10,
        "pretrained_cfg": {"num_classes": 10, "classifier": "head.fc"},
    }
    put(hub, "me/mine", {"model.safetensors": file.read_bytes(), "config.json": json.dumps(described).encode()})
    found = create_teacher(config(weights="hf-hub:me/mine"), 10, pretrained=True)
    assert weights.state_hash(found.state_dict()) == weights.state_hash(weights.read_state(file))
    with pytest.raises(UsageError, match="expected weights of test_resnet, found test_byobnet"):
        create_teacher(config(arch="test_resnet", weights="hf-hub:me/mine"), 10, pretrained=True)
    endless = described | {"model_args": {"depth": 10**9}}
    put(hub, "me/endless", {"model.safetensors": file.read_bytes(), "config.json": json.dumps(endless).encode()})
    with pytest.raises(UsageError, match=r"hf-hub:me/endless: .*depth: 1000000000, the largest number allowed is 1000"):
        create_teacher(config(weights="hf-hub:me/endless"), 10, pretrained=True)


def test_a_fit_starts_from_hub_weights_with_a_classifier_of_its_own(hub, capsys):
    source = config(arch="test_byobnet.r160_in1k")
    thousand = create_teacher(source, 1000, pretrained=False)
    weights.write_state(hub / "w.safetensors", thousand.state_dict())
    put(hub, "timm/test_byobnet.r160_in1k", {"model.safetensors": (hub / "w.safetensors").read_bytes()})
    named = config(arch="test_byobnet.r160_in1k", initial="timm", fit={})
    fresh = create_teacher(named, 10, pretrained=False)
    heads = {name: torch.zeros_like(value) for name, value in fresh.state_dict().items() if name.startswith("head.fc")}
    start_from(fresh, read_teacher_initial(named, 32))
    assert "whose classifier is of 1000 classes: it starts at zero" in capsys.readouterr().out
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, heads.get(name, thousand.state_dict()[name])), name


def test_a_fit_starts_from_local_weights_whole_where_the_classes_agree(file, capsys):
    named = config(initial=str(file), fit={})
    fresh = create_teacher(named, 10, pretrained=False)
    start_from(fresh, read_teacher_initial(named, 32))
    assert weights.state_hash(fresh.state_dict()) == weights.state_hash(weights.read_state(file))
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="initial: the weights do not fit the model"):
        start_from(create_teacher(config(arch="test_resnet"), 10, pretrained=False), weights.read_state(file))


def test_without_network_the_refusal_says_what_to_do(hub):
    for weights_name, arch in (("timm", "test_byobnet.r160_in1k"), ("hf-hub:nobody/nothing", ARCH)):
        with pytest.raises(UsageError, match=r"could not get the weights.*fetch them once"):
            create_teacher(config(arch=arch, weights=weights_name), 1000, pretrained=True)


def test_damaged_weights_in_the_hubs_cache_are_named(hub, file):
    put(hub, "timm/test_byobnet.r160_in1k", {"model.safetensors": file.read_bytes()[:5000]})
    with pytest.raises(IntegrityError, match="damaged weights in the hub's cache"):
        create_teacher(config(arch="test_byobnet.r160_in1k", weights="timm"), 1000, pretrained=True)


def test_deits_teacher_is_created_and_answers_one_view():
    chosen = config(arch="regnety_160.deit_in1k", weights="timm", precision="bf16", channels_last=True)
    model = create_teacher(chosen, 1000, pretrained=False).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 83_590_140
    with torch.inference_mode():
        assert model.to(device())(views(1, size=224)).shape == (1, 1000)


@pytest.mark.parametrize("arch", ["test_byobnet", "deit_tiny_patch16_224"])
def test_timm_loads_the_teacher_as_the_pipeline_computes_it(tmp_path, arch):
    """Bit for bit, its preprocessing included: its own mean and std, the recipe's size and crop."""
    arch_args = {} if arch == "test_byobnet" else {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    chosen = config(arch=arch, arch_args=arch_args, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4))
    seen = Recipe(seed=0, size=32, crop_fraction=0.5)
    names = tuple(f"class {i}" for i in range(10))
    model = create_teacher(chosen, 10, pretrained=False, size=32)
    for parameter in model.parameters():  # timm's heads start at zero: every answer would be equal
        nn.init.normal_(parameter, std=0.1)
    fit.write_teacher(fit.Fitted(model, names, "fitted", None), NamedTeacher("t", chosen, seen), tmp_path / "t")
    found = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).eval()
    own = {name: value for name, value in chosen.model_dump().items() if name not in ("mean", "std")}
    plain = config(**own, mean=seen.mean, std=seen.std)
    teacher = Teacher.load(plain, tmp_path / "t" / "model.safetensors", 10, seen, 4, torch.device("cpu"))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(found(images), teacher.predict(images))
    said = found.pretrained_cfg
    assert (said["mean"], said["std"], said["crop_pct"]) == ([0.3, 0.4, 0.5], [0.2, 0.3, 0.4], 0.5)
    assert tuple(said["input_size"]) == (3, 32, 32) and said["label_names"] == list(names)
