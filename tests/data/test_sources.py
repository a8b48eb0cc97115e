"""What the sources give, and every bad input: its exit code, its sentence, and all problems in one message."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from pipeline.data.sources import DataConfig, find_root
from pipeline.planning.params import compose
from pipeline.runtime.config import read_yaml, validate, write_yaml
from pipeline.runtime.errors import PipelineError, UsageError
from stages import index
from tests.support.inputs import FOLDER, picture, refused

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


def test_a_missing_or_empty_root_or_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="IMAGENET_ROOT is not set"):
        find_root("imagenet", {"DATA_ROOT": "/x"})
    assert find_root("folder", {"DATA_ROOT": "/x"}) == Path("/x")
    hint = "; set DATA_ROOT (data=imagenet: IMAGENET_ROOT) to where the images are"
    assert refused(FOLDER, tmp_path / "none")[1].endswith(f"the data root is missing{hint}")
    assert refused(FOLDER, tmp_path) == (2, f"{tmp_path}: the data root is empty{hint}")
    assert refused(FOLDER, picture(tmp_path / "a.jpg"))[1].endswith(f"Not a directory{hint}")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_configuration_is_valid_and_names_the_other_groups_files(path: Path) -> None:
    document = read_yaml(path)
    assert validate(DataConfig, document["data"], path.name).source == path.stem
    assert document.keys() == {"data", "defaults"}
    for group, names in document["defaults"].items():
        for name in names if isinstance(names, list) else [names]:
            assert (CONFIGS.parent / group / f"{name}.yaml").is_file(), f"{group}/{name}"


def test_block_must_be_even_and_divide_the_shard() -> None:
    for block in (3, 6):
        with pytest.raises(ValidationError, match="must be even and divide"):
            DataConfig(source="digits", shard_size=8 if block == 6 else 9, block=block)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("data: {source: digits, shards: 3}", 2, "data.shards: unknown key"),
        ("data: {source: folder}", 2, "DATA_ROOT is not set"),
        ("data: {source: digits, seed: 1e-3}", 2, "data.seed"),
        ("data: {source: digits}", 0, "1 files of source digits"),
    ],
)
def test_stage_index_says_what_is_wrong_and_exits_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int, sentence: str
) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text(text)
    arguments = ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "out" / "index.tsv")]
    result = CliRunner().invoke(index.main, arguments)
    assert result.exit_code == code, result.output
    assert sentence in result.output
    assert (tmp_path / "out" / "index.tsv").exists() == (code == 0)
    assert code == 0 or f"exit code {code}" in result.output.splitlines()[-1]


def test_a_root_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert find_root("folder", {"DATA_ROOT": "~/pictures"}) == Path("/home/someone/pictures")
    with pytest.raises(PipelineError, match=r"DATA_ROOT: no home directory is known for '~nobody-of-that-name/x'"):
        find_root("folder", {"DATA_ROOT": "~nobody-of-that-name/x"})


def test_a_machine_without_the_images_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text(write_yaml(compose(CONFIGS.parent, ["data=folder"])))
    found = CliRunner().invoke(
        index.main, ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "i.tsv")]
    )
    assert found.exit_code == 2 and "dvc repro --single-item train@NAME" in found.output
