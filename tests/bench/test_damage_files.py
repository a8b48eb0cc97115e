"""The proof that damage to files between stages and to kernels is found, at a small size."""

from bench.proofs import damage_files


def test_no_damaged_small_file_is_accepted_and_no_damaged_kernel_is_loaded(tmp_path):
    counts, faults = damage_files.small_files(tmp_path / "small", cases=10, seed=0)
    assert len(counts) == 11 and sum(counts.values()) >= 100 and faults == []
    counts, faults = damage_files.compiled_kernels(tmp_path / "kernels", cases=2, seed=0)
    assert set(counts.values()) == {2} and len(counts) == 12 and faults == []
