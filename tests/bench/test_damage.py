"""The proof that damage is found, at a small size."""

from bench.proofs import damage


def test_every_class_of_damage_is_found_by_verify_and_by_a_reader(tmp_path):
    result = damage.run(tmp_path, cases=2, clean_reads=100, seed=0)
    assert set(result.cases.values()) == {2} and len(result.cases) >= 12
    assert result.faults == []
