"""Numbers and paths of the environment and of --share: refused with the variable's name where they are none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import cores, device, distributed, pool_root, rank, workers, world_size
from pipeline.teacher.precompute import Share
from stages import index

LONG = b"9" * 5000


NUMBERS: dict[str, Callable[[], object]] = {
    "RANK": rank,
    "WORLD_SIZE": world_size,
    "LOCAL_WORLD_SIZE": cores,
    "DISTIL_WORKERS": workers,
    "DISTIL_TIMEOUT": lambda: distributed().__enter__(),
    "MASTER_PORT": lambda: distributed().__enter__(),
}


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1_0", "9" * 30, LONG.decode(), "٣", "\x1b[2J"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_is_refused_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"^{name}: expected a whole number from ") as caught:
        NUMBERS[name]()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "2"), ("WORLD_SIZE", "0"), ("LOCAL_WORLD_SIZE", "0"), ("DISTIL_TIMEOUT", "0")]
)
def test_a_number_out_of_its_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"^{name}: "):
        NUMBERS[name]()


def test_a_rank_that_is_no_number_ends_a_stage_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: digits}\ntest_sets: {}\n")
    for name in ("RANK", "LOCAL_WORLD_SIZE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            patch.delenv("OMP_NUM_THREADS")
            options = ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "index.tsv")]
            result = CliRunner().invoke(index.main, options)
        assert result.exit_code == 2 and f"error: {name}: expected a whole number" in result.output, result.output


@pytest.mark.parametrize("name", ["cuda:300", "cuda:" + "9" * 30, "cuda:-1"])
def test_a_device_number_is_not_cut_to_eight_bits(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DISTIL_DEVICE", name)
    with pytest.raises(UsageError, match=r"cuda:300: this machine has|DISTIL_DEVICE: expected cpu"):
        device()


@pytest.mark.parametrize("text", ["1/" + LONG.decode(), "x/2", "1/1_0", "٣/٤", "1", "0/2", "/"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--share: expected i/n"):
        Share.parse(text)
    with pytest.raises(UsageError, match="--only-views: expected first:end"):
        Share.parse("1/1", views=text.replace("/", ":").replace("0:", "3:"))


def test_a_tilde_is_the_home_directory_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISTIL_POOL", "~/pool")
    assert pool_root() == tmp_path / "pool"
    monkeypatch.setenv("DISTIL_POOL", "~nobody-of-that-name/pool")
    with pytest.raises(UsageError, match="DISTIL_POOL: no home directory is known for '~nobody-of-that-name/pool'"):
        pool_root()
    monkeypatch.setenv("DISTIL_POOL", "~/pool")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("data: {source: digits}\ntest_sets: {}\n")
    assert CliRunner().invoke(index.main, ["--params=~/params.yaml", "--out=~/work/index.tsv"]).exit_code == 0
    assert (tmp_path / "work" / "index.tsv").is_file() and not (tmp_path / "~").exists()


def test_workers_are_what_is_asked_for_else_all_cores_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_WORKERS", "5")
    assert workers() == 5
    monkeypatch.setenv("DISTIL_WORKERS", "-1")
    with pytest.raises(UsageError, match="DISTIL_WORKERS: expected a whole number from 0 to 4096, found '-1'"):
        workers()
    monkeypatch.delenv("DISTIL_WORKERS")
    monkeypatch.setattr("pipeline.runtime.machine.cores", lambda: 8)
    assert workers() == 7


def test_a_timeout_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("DISTIL_TIMEOUT", "abc")
    with (
        pytest.raises(UsageError, match="DISTIL_TIMEOUT: expected a whole number from 1 to 2592000, found 'abc'"),
        distributed(),
    ):
        pass


def test_a_device_without_an_index_is_this_rank_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_DEVICE", "cuda")
    monkeypatch.setenv("LOCAL_RANK", "7")
    if torch.cuda.device_count() > 7:
        assert device() == torch.device("cuda:7")
    else:
        with pytest.raises(UsageError, match="device cuda:7: this machine has"):
            device()


@pytest.mark.parametrize("name", ["mps", "meta", "gpu", "cuda:x"])
def test_a_device_that_stages_do_not_know_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DISTIL_DEVICE", name)
    with pytest.raises(UsageError, match=f"DISTIL_DEVICE: expected cpu, cuda or cuda:N, found '{name}'"):
        device()
