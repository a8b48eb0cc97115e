"""configs/README.md describes every key, by the docstring of its field."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.planning.keys import tables, write_tables
from pipeline.planning.pieces import MODELS
from pipeline.runtime.code import ROOT
from pipeline.runtime.config import Config
from pipeline.teacher.config import TeacherConfig
from pipeline.training.config import FitConfig, TrainConfig
from stages.configure import main

PAGE = ROOT / "configs" / "README.md"


def models_in(model: type[Config]) -> Iterator[type[Config]]:
    """A config model and those of its fields, also where a field may be null."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Config):
                yield from models_in(kind)


@pytest.mark.parametrize("model", [*MODELS.values(), FitConfig], ids=lambda model: model.__name__)
def test_every_field_has_a_docstring_of_one_to_three_lines(model: type[Config]) -> None:
    for each in models_in(model):
        for name, field in each.model_fields.items():
            text = field.description or ""
            assert text.strip(), f"{each.__name__}.{name} has no docstring; a field that is declared again repeats it"
            assert len(text.splitlines()) <= 3, f"{each.__name__}.{name}"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text().endswith(tables()), "write it again: python -m stages.configure --keys"


def test_the_command_writes_the_tables_and_keeps_the_head(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# By hand\n\nMy words.\n\n## data\n\nstale\n")
    result = CliRunner().invoke(main, ["--keys", "--configs", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert page.read_text() == "# By hand\n\nMy words.\n" + tables()
    write_tables(page)
    assert page.read_text() == "# By hand\n\nMy words.\n" + tables()


def test_a_fit_takes_the_keys_of_a_training_but_those_that_it_names() -> None:
    described = TeacherConfig.model_fields["fit"].description or ""
    left_out = set(TrainConfig.model_fields) - set(FitConfig.model_fields)
    assert set(re.findall(r"``(\w+)``", described)) == left_out


def test_a_row_says_type_range_and_default() -> None:
    text = tables()
    assert "| `size` | integer ≥ 8, ≤ 1,024 | required | Side of a view in px (R). |" in text
    assert "| `optimizer.ema_decay` | number > 0, < 1 or null | `0.99996` |" in text
    assert "| `verify_views` | `all`, `first_cycle` or number ≥ 0, ≤ 1 | `all` |" in text
