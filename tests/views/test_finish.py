"""finish: normalise, erase, mix; the same bits for a row whatever surrounds it."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.runtime.machine import device
from pipeline.views.choose import choose
from pipeline.views.finish import FinishPlan, _hash16, _table, finish, finish_plan
from pipeline.views.pairs import pair
from pipeline.views.recipe import Erase, Mix, Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OTHER = device() if device().type != "cpu" else torch.device("cuda")
SIZE = 224  # large enough for several bands on a CPU
TABLE = "5fe3fc87418ff5c8a2984bb075c659b6696d9a74f2ab14c09c37a144a8897dc6"  # sha256
MOVING = set(
    "_to_copy alias copy_ detach empty index index_put_ lift_fresh permute scalar_tensor select slice split squeeze unbind "
    "unsqueeze view where".split()
)


class Operations(TorchDispatchMode):
    """Names those that compute with floating-point numbers, rather than move them."""

    def __enter__(self) -> "Operations":
        self.computing: set[str] = set()
        return super().__enter__()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        name = operation.overloadpacket.__name__
        floats = [
            value for value in tree_leaves(result) if isinstance(value, torch.Tensor) and value.is_floating_point()
        ]
        if floats and name not in MOVING:
            self.computing.add(name if kwargs.get("alpha", 1) == 1 else f"{name} with a factor")
        return result


def batch(n: int, recipe: Recipe, seed: int = 0) -> tuple[torch.Tensor, FinishPlan]:
    views = [choose(recipe, f"sample {i}", 0, 300, 300) for i in range(n)]
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, recipe.size, recipe.size), generator=generator, dtype=torch.uint8)
    return pixels, finish_plan(views, pair(recipe, "block", 0, n), recipe.erase.count)


def plain(n: int, size: int) -> FinishPlan:
    recipe = Recipe(seed=0, size=size, erase=Erase(probability=0.0))
    return batch(n, recipe)[1]


def finished(pixels: torch.Tensor, plan: FinishPlan, mode: str) -> torch.Tensor:
    return finish(pixels, plan, Recipe(seed=0, size=pixels.shape[-1], mean=MEAN, std=STD, erase=Erase(mode=mode)))


def row_of(plan: FinishPlan, a: int, b: int) -> FinishPlan:
    """The pair (a, b) as a batch of two."""
    rows = torch.tensor([a, b])
    return FinishPlan(plan.erase[rows], plan.noise[rows], torch.tensor([1, 0]), plan.lam[rows], plan.box[rows])


def test_normalising_is_torchvisions_within_float_rounding() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16).contiguous()
    expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    found = finished(pixels, plain(2, 16), "const")
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mode", "size"), [("const", 32), ("rand", 32), ("pixel", SIZE)])
def test_a_row_depends_on_itself_and_its_partner_alone(mode: str, size: int) -> None:
    recipe = Recipe(seed=0, size=size, mix=Mix(mixup=0.8, cutmix=1.0), erase=Erase(probability=0.6, count=2))
    pixels, plan = batch(17, recipe)
    whole = finished(pixels, plan, mode)
    for a, b in [(0, int(plan.partner[0])), (7, int(plan.partner[7])), (16, int(plan.partner[16]))]:
        alone = finished(pixels[[a, b]], row_of(plan, a, b), mode)
        assert torch.equal(alone, whole[[a, b]])


def test_mixing_is_timms_pair_mode() -> None:
    recipe = Recipe(seed=2, size=64, mix=Mix(mixup=0.8, cutmix=1.0, probability=0.8), erase=Erase(probability=0.0))
    pixels, plan = batch(33, recipe)
    x = finished(pixels, plain(33, 64), "const")
    found = finished(pixels, plan, "const")
    kinds = set()
    for i in range(33):
        j, lam, (top, left, bottom, right) = int(plan.partner[i]), plan.lam[i], plan.box[i].tolist()
        expected = x[i].clone()
        if bottom > top:
            kinds.add("cutmix")
            expected[:, top:bottom, left:right] = x[j][:, top:bottom, left:right]
        elif lam != 1:
            kinds.add("mixup")
            expected = x[i] * lam + x[j] * (1 - lam)
        else:
            kinds.add("none")
        assert torch.equal(found[i], expected)
    assert kinds == {"cutmix", "mixup", "none"}


def test_pixel_erasing_writes_normal_noise_inside_the_boxes_and_nothing_outside() -> None:
    recipe = Recipe(seed=0, size=SIZE, erase=Erase(probability=1.0, count=2))
    pixels, plan = batch(12, recipe)
    before = finished(pixels, plain(12, SIZE), "pixel")
    after = finished(pixels, plan, "pixel")
    inside = torch.zeros(12, SIZE, SIZE, dtype=torch.bool)
    for row in range(12):
        for top, left, height, width in plan.erase[row].tolist():
            inside[row, top : top + height, left : left + width] = True
    mask = inside.unsqueeze(1).expand_as(after)
    assert torch.equal(after[~mask], before[~mask])
    noise = after[mask].numpy()
    assert len(noise) > 100_000
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    first, second = (after[i][:, inside[i]].numpy() for i in plan.erase[:, 0, 2].nonzero().flatten()[:2].tolist())
    assert abs(np.corrcoef(first[0], first[1])[0, 1]) < 0.05, "channels"
    assert abs(np.corrcoef(first[0, :-1], first[0, 1:])[0, 1]) < 0.05, "neighbours"
    n = min(first.shape[1], second.shape[1])
    assert abs(np.corrcoef(first[0, :n], second[0, :n])[0, 1]) < 0.05, "samples"


def test_const_is_zero_rand_is_one_colour_per_box_and_a_later_box_covers_an_earlier() -> None:
    plan = FinishPlan(
        erase=torch.tensor([[[2, 2, 8, 8], [6, 6, 4, 8], [0, 0, 0, 0]]] * 2, dtype=torch.int32),
        noise=torch.tensor([5, 6]),
        partner=torch.arange(2),
        lam=torch.ones(2),
        box=torch.zeros(2, 4, dtype=torch.int32),
    )
    pixels = torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)
    zero = finished(pixels, plan, "const")
    assert not zero[:, :, 2:10, 2:10].any() and not zero[:, :, 6:10, 6:14].any() and (zero != 0).sum() == 6 * 176
    colour = finished(pixels, plan, "rand")
    upper, lower = colour[:, :, 2:6, 2:10].flatten(2), colour[:, :, 6:10, 6:14].flatten(2)
    for box in (upper, lower):
        assert (box == box[:, :, :1]).all()
        assert len(box[:, :, 0].unique()) == 6, "one value per channel and sample"
    assert (upper[:, :, 0] != lower[:, :, 0]).all()


def test_the_noise_table_is_the_same_everywhere() -> None:
    table = _table(device())
    assert hashlib.sha256(table.cpu().numpy().tobytes()).hexdigest() == TABLE
    assert abs(float(table.mean())) < 1e-6 and abs(float(table.std()) - 1) < 1e-3


def test_hash_bits_are_even_for_neighbouring_seeds_and_places() -> None:
    place = torch.arange(60_000)
    for seeds in (torch.tensor(0), torch.tensor(2**63 - 1), torch.arange(60_000) << 32):
        bits = _hash16(seeds, place)
        assert int(bits.min()) >= 0 and int(bits.max()) < 65536
        counts = np.bincount((bits >> 8).numpy(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_an_empty_batch_stays_empty() -> None:
    empty = plain(0, 16)
    assert finished(torch.zeros(0, 3, 16, 16, dtype=torch.uint8), empty, "pixel").shape == (0, 3, 16, 16)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_it_computes_with_operations_that_round_once_on_every_device(mode: str) -> None:
    """A device may compute ``lerp``, ``addcmul`` or an ``add`` with a factor as one fused step, and ``div`` by a reciprocal."""
    recipe = Recipe(seed=0, size=32, mix=Mix(mixup=0.8, cutmix=1.0), erase=Erase(probability=0.6, count=2))
    pixels, plan = batch(8, recipe)
    with Operations() as seen:
        finished(pixels, plan, mode)
    assert seen.computing <= {"add", "add_", "mul", "mul_", "rsub"}, "show that it rounds once"


# Where there is no GPU, tests/stages/test_accelerator.py runs this test on a device of its own; here the CPU would meet itself.
@pytest.mark.skipif(OTHER.type == "cuda" and not torch.cuda.is_available(), reason="needs a device beside the CPU")
@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_a_gpu_gives_the_bits_of_the_cpu(mode: str) -> None:
    recipe = Recipe(seed=0, size=SIZE, mix=Mix(mixup=0.8, cutmix=1.0), erase=Erase(probability=0.6, count=2))
    pixels, plan = batch(64, recipe)
    assert torch.equal(finished(pixels, plan, mode), finished(pixels.to(OTHER), plan.to(OTHER), mode).cpu())
