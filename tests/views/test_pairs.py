"""pair: timm's Mixup in mode ``pair`` as data (its distributions are tested in test_views through
bench.proofs.statistics).
"""

import numpy as np
import pytest

from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe

DEIT = Recipe(seed=0, size=224, mix=Mix(mixup=0.8, cutmix=1.0))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 256, 255])
def test_partners_are_mutual_and_only_the_last_of_an_odd_block_stays_alone(n: int) -> None:
    found = pair(DEIT, "block", 5, n)
    assert np.array_equal(found.partner[found.partner], np.arange(n))
    assert sorted(found.pairs.flatten()) == sorted(set(range(n)) - set(np.flatnonzero(found.partner == np.arange(n))))
    assert len(found.pairs) == n // 2
    alone = np.flatnonzero(found.partner == np.arange(n))
    assert len(alone) == n % 2
    assert (found.lam[alone] == 1).all() and not found.box[alone].any()
    assert (found.lam == found.lam[found.partner]).all() and (found.box == found.box[found.partner]).all()
    dtypes = (found.partner.dtype, found.lam.dtype, found.box.dtype, found.pairs.dtype)
    assert dtypes == (np.int64, np.float32, np.int32, np.int64)


def test_pairing_depends_on_block_and_view_only() -> None:
    again = pair(DEIT, "block", 5, 64)
    for block, view, same in (("block", 5, True), ("block", 6, False), ("other", 5, False)):
        other = pair(DEIT, block, view, 64)
        assert np.array_equal(again.partner, other.partner) is same
        assert np.array_equal(again.lam, other.lam) is same


def test_views_that_share_their_pairing_have_the_same_partners_and_their_own_mixing() -> None:
    shared = DEIT.model_copy(update={"shared_pairing": 3})
    first, *others = (pair(shared, "block", view, 65) for view in (3, 4, 5))
    for other in others:
        assert np.array_equal(first.partner, other.partner) and np.array_equal(first.pairs, other.pairs)
        assert not np.array_equal(first.lam, other.lam) and not np.array_equal(first.box, other.box)
    for view in (2, 6):
        assert not np.array_equal(first.partner, pair(shared, "block", view, 65).partner)
    assert np.array_equal(first.partner[first.partner], np.arange(65)) and len(first.pairs) == 32


@pytest.mark.parametrize("mix", [Mix(), Mix(mixup=0.8, cutmix=1.0, probability=0.0)])
def test_without_mixing_pairs_are_formed_all_the_same(mix: Mix) -> None:
    found = pair(Recipe(seed=0, size=32, mix=mix), "block", 0, 10)
    assert len(found.pairs) == 5
    assert (found.lam == 1).all() and not found.box.any()
    assert np.array_equal(found.partner, pair(DEIT, "block", 0, 10).partner), "mixing does not change who meets"


def test_lambda_is_what_the_clipped_box_leaves() -> None:
    found = pair(DEIT, "block", 0, 2000)
    top, left, bottom, right = found.box.astype(int).T
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= 224).all() and (right <= 224).all()
    area = (bottom - top) * (right - left)
    cutmix = area > 0
    assert np.array_equal(found.lam[cutmix], (1 - area[cutmix] / 224**2).astype(np.float32))
    assert 0.4 < cutmix.mean() < 0.6
    assert ((found.lam >= 0) & (found.lam <= 1)).all()


def test_minmax_bounds_both_sides_of_the_box() -> None:
    mix = Mix(cutmix_minmax=(0.25, 0.75))
    box = pair(Recipe(seed=0, size=32, mix=mix), "block", 0, 2000).box.astype(int)
    for sides in (box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]):
        assert sides.min() == 8 and sides.max() == 23
