"""The proof that killed writers lose nothing, at a small size."""

from bench.proofs import kills


def test_sigkills_lose_mix_and_tear_nothing(tmp_path):
    result = kills.run(tmp_path, kills=40, seed=0)
    assert result.kills >= 40 and result.faults == []
    assert len([step for step, count in result.at_step.items() if count]) >= 5
