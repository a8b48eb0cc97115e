"""params.yaml is YAML 1.2, read and written as DVC reads it; what DVC would pass over is refused."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from dvc.utils.serialize import parse_yaml as dvc_parse_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.runtime.config import load, parse_yaml, read_yaml, validate, write_yaml
from pipeline.runtime.errors import UsageError
from pipeline.teacher.config import TeacherConfig
from pipeline.views.recipe import Recipe
from stages import index
from stages.configure import main
from tests.support.hostile import LONG

TEXTS = st.one_of(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff"),
        max_size=30,
    ),
    st.sampled_from("1e3 1e-3 224 007 0o7 0x1F .inf 2001-01-01 12:30:45 no yes true null ~ = - 1_000 <<".split()),
)
NUMBERS = st.one_of(
    st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False), st.none()
)
KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True), TEXTS)
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
@example({"a": [{"": None, ":0": None}, ":0", "?0"]})
def test_what_configure_writes_dvc_reads_back_with_equal_values_and_types(value: dict[str, object]) -> None:
    text = write_yaml(value)
    for read in (parse_yaml, dvc_parse_yaml):
        found = read(text, "params.yaml")
        assert repr(found) == repr(value), text


@pytest.mark.parametrize("key", ["224", "1e3", "007", "2001-01-01", "12_000", "1_0.5", "true", "null"])
def test_a_key_that_yaml_reads_as_something_else_than_text_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"students:\n  {key}: {{}}\n")
    with pytest.raises(
        UsageError, match=r"params\.yaml: YAML reads the key students\..* and not as text; write it in quotes"
    ):
        read_yaml(path)
    path.write_text(f"students:\n  '{key}': {{}}\n  no: {{}}\n")
    assert list(read_yaml(path)["students"]) == [key, "no"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 2001-13-45", "month must be"),
        ("a: [", "not valid YAML"),
        ("[1]", "expected a mapping of sections"),
    ],
)
def test_a_hostile_params_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    result = CliRunner().invoke(main, ["--check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 2 and sentence in result.output, result.output


def test_numbers_that_dvc_writes_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: {lr: 1e-3, min: 2e-06, name: no}\n")
    assert read_yaml(tmp_path / "params.yaml")["a"] == {"lr": 1e-3, "min": 2e-06, "name": "no"}


@pytest.mark.parametrize(
    "text", ["[" * 1_000, "{a: " * 100_000, "- " * 100_000 + "x", f"a: {LONG.decode()}", "a: &a [*a]", "? [a]\n: b", "a: \x1b"]
)  # fmt: skip
def test_yaml_that_is_none_of_ours_is_usage(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    result = CliRunner().invoke(index.main, ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "i")])
    assert result.exit_code == 2 and result.output.endswith("exit code 2\n"), result.output[-500:]


def test_a_key_given_twice_and_a_missing_section_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("views: {seed: 1, seed: 2}\n")
    with pytest.raises(UsageError, match="key given twice: seed"):
        read_yaml(path)
    path.write_text("data: {}\n")
    with pytest.raises(UsageError, match=r"no section 'recipes\.a'"):
        load(path, "recipes.a", Recipe)
    with pytest.raises(UsageError, match="no such file; write it with"):
        load(tmp_path / "nothing.yaml", "recipes.a", Recipe)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"views: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UsageError):
        read_yaml(path)
    assert not (tmp_path / "made").exists()


LEAVES = [at for at, line in enumerate(Path("params.yaml").read_text().splitlines()) if re.match(r" +\w+: [^{]", line)]


def test_every_leaf_of_params_is_refused_by_its_key(tmp_path: Path) -> None:
    lines = Path("params.yaml").read_text().splitlines()
    for at in LEAVES:
        lines[at] = f"{lines[at].split(': ')[0]}: .nan"
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    with pytest.raises(UsageError) as found:
        read_yaml(tmp_path / "params.yaml")
    assert len(str(found.value).splitlines()) == len(LEAVES) > 60


def test_a_number_with_an_underscore_and_an_infinite_one_are_named_with_their_keys_and_quoted_ones_are_text() -> None:
    with pytest.raises(UsageError) as found:
        parse_yaml("a: {b: 1_0.5, c: [1, .inf], d: 2001-01-01, e: '1_0', f: 1_0a}", "p.yaml")
    lines = str(found.value).splitlines()
    assert len(lines) == 3
    for start in (
        "a.b: 1_0.5 has an underscore",
        "a.c.[1]: expected a finite",
        "a.d: YAML reads date datetime.date(2001",
    ):
        assert any(line.startswith(f"p.yaml: {start}") for line in lines)
    with pytest.raises(UsageError, match="x=1_000: 1_000 has an underscore"):
        parse_yaml("1_000", "x=1_000")


@pytest.mark.parametrize(
    "name", ["hf-hub:../../x", "hf-hub: a/b", "hf-hub:a", "hf-hub:a/b/c", "hf-hub:a/b@../x", "hf-hub:/", ""]
)
def test_a_name_of_weights_that_no_hub_has_is_refused(name: str) -> None:
    entry = {"recipe": "r", "arch": "resnet18"}
    with pytest.raises(UsageError, match=r"teachers.t.weights: "):
        validate(TeacherConfig, entry | {"weights": name}, "teachers.t")
    for fine in ("hf-hub:timm/vit_tiny.augreg", "hf-hub:a/b@refs/pr/1", "timm", "../w.safetensors"):
        assert validate(TeacherConfig, entry | {"weights": fine}, "teachers.t").weights == fine
