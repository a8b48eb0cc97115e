"""Weights from elsewhere whose classes stand in another order: refused by names and by answers; weak teachers pass."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.weights import write_state
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.teacher import fit
from pipeline.teacher.class_order import better_order, names_beside, other_names, stratified
from pipeline.teacher.config import NamedTeacher
from pipeline.teacher.model import create_teacher
from pipeline.views.validation import views_of_rows
from tests.support.world import World, make_world

# Simulated answers

SHARES = (0.0, 0.3, 0.5, 0.7, 0.9, 0.97)  # of answers that a teacher knows
CASES = [(c, n, skew) for c in (2, 3, 10, 1000) for n in (20, 200, 2000) for skew in (0.0, 0.9)]
# where so many images can tell: 1,000 classes need more than one image each, and most of 200 must be right
TELLING = {(c, n, skew) for c, n, skew in CASES if n >= 200 and c <= 10} | {(1000, 2000, 0.0)}


def simulated(rng: np.random.Generator, classes: int, images: int, skew: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels in their order, and the share of each class: equal, or one has ``skew``."""
    shares = np.full(classes, 1 / classes)
    if skew:
        shares[:] = (1 - skew) / (classes - 1)
        shares[rng.integers(classes)] = skew
    return np.sort(rng.choice(classes, images, p=shares)), shares


@pytest.mark.parametrize(("classes", "images", "skew"), CASES)
def test_no_correct_teacher_is_refused_and_permuted_ones_are(classes: int, images: int, skew: float) -> None:
    rng = np.random.default_rng(7)
    rounds = 4 if classes * images >= 200_000 else 25
    found = list[bool]()
    for share in SHARES:
        for _ in range(rounds):
            labels, shares = simulated(rng, classes, images, skew)
            guesses = rng.integers(classes, size=images), rng.choice(classes, images, p=shares), rng.integers(classes)
            for guess in guesses:  # of nothing, of how frequent classes are, always the same
                answers = np.where(rng.random(images) < share, labels, guess)
                assert better_order(answers, labels) == [], (share, guess)
            if share == SHARES[-1]:
                moved = np.roll(np.arange(classes), int(rng.integers(1, classes)))  # each class at another's place
                pairs = better_order(moved[answers], labels)
                assert classes == 1000 or all(moved[of] == output for output, of in pairs if (labels == of).sum() > 9)
                found.append(bool(pairs))
    if (classes, images, skew) in TELLING:
        assert np.mean(found) >= 0.87


def test_every_class_is_asked_about_in_both_halves() -> None:
    labels = np.repeat(np.arange(100), 50)[np.random.default_rng(0).permutation(5000)]
    rows = stratified(labels, 2000)
    assert len(set(rows.tolist())) == 2000 and (np.diff(labels[rows]) >= 0).all()
    for half in (rows[::2], rows[1::2]):
        assert (np.bincount(labels[half]) == 10).all()
    assert sorted(stratified(labels[:30], 2000).tolist()) == list(range(30))


# Names


def test_names_are_compared_with_their_order() -> None:
    classes = ("cat", "dog", "eel")
    assert other_names(["cat", "dog", "eel"], classes) == []
    assert other_names(["dog", "cat", "eel"], classes) == [(0, 1), (1, 0)]
    assert other_names({"0": "eel", "1": "dog", "2": "hen"}, classes) == [(0, 2)]
    assert other_names(["Katze", "Hund", "Aal"], classes) == []  # names of another language tell nothing
    assert other_names(["crane", "cat", "crane"], ("crane", "cat", "crane, machine")) == []  # ImageNet has two cranes
    assert other_names(None, classes) == other_names(["cat"], classes) == other_names("cat", classes) == []


def test_names_are_found_beside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    assert names_beside(weights) is None
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "config.json").write_text("{of another program")
    assert names_beside(weights) == ["cat", "dog"]
    (tmp_path / "config.json").write_text(json.dumps({"label_names": ["dog", "cat"]}))
    assert names_beside(weights) == ["dog", "cat"]


def test_a_pipe_beside_the_weights_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("labels.txt", "config.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(IntegrityError, match="expected a file, found a device, pipe or socket"):
            names_beside(tmp_path / "model.safetensors")


# A real teacher


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def able(world: World) -> dict[str, torch.Tensor]:
    """Weights that know the digits: new ones, and a classifier by least squares on what they give."""
    torch.manual_seed(0)
    model = create_teacher(world.config, 10, pretrained=False)
    rows, affine = range(world.shards.samples), (torch.tensor(world.recipe.mean), torch.tensor(world.recipe.std))
    labels = torch.cat([torch.from_numpy(world.shards.labels(block)) for block in world.shards.blocks])
    images = views_of_rows(world.shards, rows, world.recipe) * affine[1].view(3, 1, 1) + affine[0].view(3, 1, 1)
    own = (images - torch.tensor(world.config.mean).view(3, 1, 1)) / torch.tensor(world.config.std).view(3, 1, 1)
    with torch.inference_mode():
        model.train()(own)  # the statistics of batch norm
        known = model.eval().forward_head(model.forward_features(own), pre_logits=True)
    inputs = torch.cat([known, torch.ones(len(known), 1)], 1)
    wanted = torch.nn.functional.one_hot(labels, 10).float()
    solved = torch.linalg.solve(inputs.T @ inputs + 0.1 * torch.eye(inputs.shape[1]), inputs.T @ wanted)
    state = model.state_dict()
    state["head.fc.weight"], state["head.fc.bias"] = solved[:-1].T.contiguous(), solved[-1].contiguous()
    return state


def given(world: World, path: Path, state: dict[str, torch.Tensor], **keys: object) -> NamedTeacher:
    write_state(path, state)
    config = world.config.model_copy(update={"weights": str(path), "fit": None, **keys})
    return NamedTeacher("t", config, world.recipe)


def test_given_weights_in_another_order_are_refused_with_pairs_and_the_key_that_allows_it(
    world: World, able: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = given(world, tmp_path / "w.safetensors", able)
    fitted = fit.trained_elsewhere(teacher, world.work)
    assert fitted.top1 is not None and fitted.top1 > 60
    out = capsys.readouterr().out
    assert f"{fitted.top1:.2f} % top-1 on {world.val.samples} validation images" in out and "warning" not in out
    fit.write_teacher(fitted, teacher, tmp_path / "t")
    stored = json.loads((tmp_path / "t" / "teacher.json").read_text())
    assert stored["top1"] == fitted.top1 and "class_order" not in stored["computes"]
    order = torch.tensor([9, *range(9)])
    moved = able | {name: able[name][order] for name in ("head.fc.weight", "head.fc.bias")}
    with pytest.raises(
        UsageError, match=r"the output of '\d' stands for '\d'.*in teachers\.t give outputs .*class_order: given"
    ) as told:
        fit.trained_elsewhere(given(world, tmp_path / "m.safetensors", moved), world.work)
    assert str(told.value).count("stands for") == 5 and " and 5 more; name the data's" in str(told.value)
    allowed = given(world, tmp_path / "m.safetensors", moved, class_order="given")
    assert fit.trained_elsewhere(allowed, world.work).top1 is not None
    assert "warning: teacher t: on" in capsys.readouterr().out
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in ("1", "0", *world.val.classes[2:])))
    with pytest.raises(UsageError, match="the class names beside its weights are in another order"):
        fit.trained_elsewhere(teacher, world.work)


def test_weights_that_know_nothing_are_taken_with_a_warning(
    world: World, able: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = able | {"head.fc.weight": torch.zeros_like(able["head.fc.weight"])}
    found = fit.trained_elsewhere(given(world, tmp_path / "w.safetensors", blind), world.work)
    assert found.top1 is not None and found.top1 < 12
    assert "it is no better than '" in capsys.readouterr().out


def test_names_that_the_data_does_not_have_are_told(
    world: World, able: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("zero\n1\n2\n3\n4\n5\n6\n7\n8\nnine\n")
    fit.trained_elsewhere(given(world, tmp_path / "w.safetensors", able), world.work)
    assert "2 of its 10 class names are not the data's, first 'zero' for '0'" in capsys.readouterr().out


def test_the_key_changes_no_fit(world: World) -> None:
    inputs, teacher = fit.FitInputs(world.shards, world.val, None), world.named_teacher
    other = replace(teacher, config=teacher.config.model_copy(update={"class_order": "given"}))
    how = fit.FitConfig(epochs=1, batch=32)
    assert fit.fit_key(teacher, how, inputs, []) == fit.fit_key(other, how, inputs, [])
