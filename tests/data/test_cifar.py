"""CIFAR: the same samples from its directory and its archive, and no pickle that runs code."""

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.images import decode_image
from pipeline.data.pack import read_entry
from pipeline.data.sources import DataConfig, read_splits, scan
from pipeline.runtime.errors import IntegrityError, PipelineError
from tests.support.hostile import Evil
from tests.support.inputs import refused, write_cifar_batches


def _cifar_archive(directory: Path, root: Path) -> Path:
    root.mkdir()
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(directory, directory.name)
    return path


CIFAR = DataConfig(source="cifar10", classes=10, shard_size=4, block=2)


def test_cifar_gives_the_same_samples_from_its_directory_and_its_archive(tmp_path: Path) -> None:
    _cifar_archive(write_cifar_batches(tmp_path), tmp_path / "a")
    found = [read_splits(CIFAR, root, scan(CIFAR, root)) for root in (tmp_path, tmp_path / "a")]
    assert found[0] == found[1]
    classes, splits = found[0]
    assert classes[1] == "c1" and len(splits["train"].entries) == 50 and len(splits["val"].entries) == 10
    first = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)[0].reshape(3, 32, 32)
    image = np.asarray(decode_image(read_entry(splits["train"].entries[0]), "x"))
    assert np.array_equal(image.transpose(2, 0, 1), first)


def test_a_malicious_cifar_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    directory = write_cifar_batches(tmp_path)
    (directory / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil(tmp_path / "marker")}, 2))
    (directory / "test_batch").write_bytes(b"junk")
    code, text = refused(CIFAR, tmp_path)
    assert code == 3 and "'data_batch_2': not a CIFAR batch: UnpicklingError: it asks for posix.mkdir" in text
    assert "'test_batch': not a CIFAR batch" in text
    assert not (tmp_path / "marker").exists()


def test_cifar_of_another_md5_a_cut_archive_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    directory = write_cifar_batches(tmp_path)
    code, text = refused(CIFAR.model_copy(update={"md5": {"test_batch": "0" * 32}}), tmp_path)
    assert code == 3 and "'test_batch': md5 is" in text
    path = _cifar_archive(directory, tmp_path / "a")
    path.write_bytes(path.read_bytes()[:-2000])
    assert refused(CIFAR, path.parent)[0] == 3
    path.rename(path.with_name("other.tar.gz"))
    assert refused(CIFAR, path.parent)[0] == 2
    listed = scan(CIFAR, tmp_path)
    (directory / "batches.meta").unlink()
    with pytest.raises(IntegrityError, match=r"'batches.meta': missing; .* python -m stages.index"):
        read_splits(CIFAR, tmp_path, listed)


def test_a_cifar_batch_that_changed_since_the_listing_is_refused(tmp_path: Path) -> None:
    config = DataConfig(source="cifar10", shard_size=4, block=2)
    directory = write_cifar_batches(tmp_path)
    listed = scan(config, tmp_path)
    os.utime(directory / "test_batch", ns=(0, 1))
    with pytest.raises(PipelineError, match="'cifar-10-batches-py/test_batch': it was written again since the index"):
        read_splits(config, tmp_path, listed)
