"""Policies: timm reads their strings as we do, and gives its ops the same arguments."""

import pytest
from timm.data import auto_augment as timm_augment

from pipeline.views import policies
from pipeline.views.chance import Draws


@pytest.mark.parametrize("name", policies.EVERY_OP)
def test_an_ops_argument_is_timms_for_every_level_and_both_signs(name: str) -> None:
    hparams = {"img_mean": (124, 116, 104)}
    for level in (0.0, 0.1, 1.0, 3.3333, 5.0, 7.77, 9.0, 9.999999, 10.0, 17.0):
        level_to_arg = timm_augment.LEVEL_TO_ARG[name]
        theirs = {level_to_arg(level, hparams) if level_to_arg else () for _ in range(40)}
        ours = {policies.arguments(name, level, sign) for sign in (1.0, -1.0)}
        assert ours == theirs
        assert {type(v) for given in ours for v in given} == {type(v) for given in theirs for v in given}


POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand-m7-n3-p0.7-mstd101-tweights",
    "rand-m15-mmax20-t3a",
    "v0",
    "original-mstd1",
    "3a",
)


@pytest.mark.parametrize("policy", POLICIES)
def test_timm_reads_the_policy_string_as_we_do(policy: str) -> None:
    parsed = policies.parse(policy)
    assert parsed is not None
    if policy.startswith("rand"):
        theirs = timm_augment.rand_augment_transform(policy, {"img_mean": (0, 0, 0)})
        groups, layers = [[op] for op in theirs.ops], theirs.num_layers
    else:
        groups, layers = timm_augment.auto_augment_transform(policy, {"img_mean": (0, 0, 0)}).policy, 1
    steps = [[(op.name, op.prob, op.magnitude) for op in group] for group in groups]
    assert [[(s.name, s.probability, s.magnitude) for s in group] for group in parsed.groups] == steps
    assert parsed.layers == layers
    assert parsed.std == groups[0][0].magnitude_std


def test_weighted_layers_are_drawn_without_replacement() -> None:
    policy = policies.parse("rand-m9-n15-p1-tweights-inc1")
    assert policy is not None
    names = [name for name, _ in policies.choose_ops(policy, Draws("a"))]
    assert len(set(names)) == len(names) == 15


def test_deits_policy_asks_for_zero_bits_often_enough_to_matter() -> None:
    policy = policies.parse("rand-m9-mstd0.5-inc1")
    assert policy is not None
    ops = [op for i in range(20_000) for op in policies.choose_ops(policy, Draws("zero bits", i))]
    assert 10 < ops.count(("PosterizeIncreasing", (0,))) < 70, "25 to 37 of 20,000 views were measured with timm"
