"""Every command, option, stage, key, file and word that a document or a message names is there.

Texts are the documents, the files of configs/, and the strings and docstrings of pipeline, stages and bench. A name that
another program owns stands in ``FOREIGN``.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

from pipeline.planning.params import CHOICES
from pipeline.planning.pieces import MODELS
from pipeline.planning.studies import SECTION
from pipeline.runtime.code import ROOT
from pipeline.training.config import FitConfig

FOREIGN = set(
    """
    HF_HOME NPY_DISABLE_CPU_FEATURES no_scm pipeline_tag library_name dataset_wrapper README_deit __pycache__
    ILSVRC2012_val_00000001 dynamic_img_size sw_in12k_ft_in1k regnety_016 mixup_target set_distilled_training rand_bbox
    rand_bbox_minmax solarize_add transforms_imagenet_train precompute_coeffs normalize_coeffs_8bpc
    driver_version AWS_PROFILE AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    QEMU_CPU sve vector compute_90 sm_80 sm_90 dvcignore seg SoftTargetCrossEntropy ImageOps solarize inc
    """.split()
)
WORDS_OF_COMMANDS = set(
    """
    aws remote push checkout false hardlink hf make owner pth ID me pull pytest reflink repro scancel scontrol
    signals srun symlink topK true venv
    """.split()
)
ENDINGS = {"json", "onnx", "pt2", "py", "type"}  # of files, and of a key of DVC's
DVC_STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
ROOMS = {path.name for path in (ROOT / "pipeline").iterdir() if path.is_dir()}
_TOP = (
    "README.md ARCHITECTURE.md CONTRIBUTING.md Makefile dvc.yaml params.yaml .ci/run pipeline/report/page.html".split()
)
DOCUMENTS = [ROOT / name for name in _TOP]
DOCUMENTS += [path for top in ("docs", "configs") for path in sorted((ROOT / top).rglob("*")) if path.is_file()]
CODE = [path for top in ("pipeline", "stages", "bench") for path in sorted((ROOT / top).rglob("*.py"))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def strings(path: Path) -> list[str]:
    """Every string of a module as a reader sees it, ``{}`` in place of what is filled in."""
    inside, found = set[int](), []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in node.values}
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append(node.value)
    return found


def is_data(text: str) -> bool:
    """Whether a string of the code is no sentence but a name by itself."""
    return re.fullmatch(r"[\w.%/-]*", text) is not None


@cache
def texts() -> list[tuple[str, str]]:
    found = [(str(path.relative_to(ROOT)), path.read_text()) for path in DOCUMENTS]
    found += [(str(path.relative_to(ROOT)), text) for path in CODE for text in strings(path) if not is_data(text)]
    return [(where, re.sub(r"\s*\n\s*(# )?", "\n", re.sub(r"\$\{[^}]*\}", "{}", text))) for where, text in found]


def words_of(value: object) -> Iterator[str]:
    """The words of keys and texts in a document of YAML."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from words_of(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from words_of(entry)
    elif isinstance(value, str):
        yield from re.findall(r"\w+", value)


@cache
def known() -> set[str]:
    """Words that stand for something: names in the code, strings that are data, keys and values of YAML, file names."""
    found = set(FOREIGN)
    for path in CODE:
        nodes = [node for node in ast.walk(tree(path)) if not isinstance(node, ast.Constant)]
        names = [value for node in nodes for _, value in ast.iter_fields(node) if isinstance(value, str)]
        found |= {part for name in names for part in name.split(".")}
        found |= {word for text in strings(path) if is_data(text) for word in re.findall(r"\w+", text)}
    for path in DOCUMENTS:
        found |= set(words_of(yaml.safe_load(path.read_text()))) if path.suffix == ".yaml" else set()
    for path in (ROOT / "pipeline").rglob("*.cu"):
        found |= set(re.findall(r"\w+", path.read_text()))
    for top in ("pipeline", "stages", "bench", "tests", "configs", "docs"):
        found |= {word for path in (ROOT / top).rglob("*") for word in re.findall(r"\w+", path.name)}
    return found


def named(pattern: str, ending: str = "") -> list[tuple[str, re.Match[str]]]:
    return [(where, match) for where, text in texts() if where.endswith(ending) for match in re.finditer(pattern, text)]


def wrong(found: list[tuple[str, str]]) -> None:
    assert not found, "\n".join(f"{where}: {name}" for where, name in sorted(set(found)))


def test_words_with_an_underscore_are_names_of_something() -> None:
    foreign = r"(?!SLURM_|SBATCH_)"  # Slurm's variables
    pattern = rf"(?<![\w/-]){foreign}[a-zA-Z][a-zA-Z0-9]*(?:_[a-zA-Z0-9]+)+(?!\w)"
    wrong([(where, word[0]) for where, word in named(pattern) if word[0] not in known()])


def test_words_in_backticks_are_names_of_something() -> None:
    found = []
    for where, text in texts():
        spans = re.findall(r"``(\w[\w.]*)``", text) if where.endswith(".py") else []
        if where.endswith(".md"):
            spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```|git show \S+", "", text, flags=re.S))
        words = {word for span in spans for word in re.findall(r"[A-Za-z_]\w+", span)}
        found += [(where, word) for word in words - known() - WORDS_OF_COMMANDS]
    wrong(found)


def test_commands_and_their_options_are_there() -> None:
    """And a command in a message has every option without which it is refused."""
    found = []
    for where, match in named(r"python -m\s((?:stages|bench|tests|pipeline)[\w.]*\w)((?:[^`;|&)]|\n(?!python))*)"):
        module = ROOT / f"{match[1].replace('.', '/')}.py"
        if not module.is_file():
            found.append((where, match[0]))
            continue
        code, given = module.read_text(), match[2].partition("python -m")[0]
        there = code + (ROOT / "stages/__init__.py").read_text()
        options = re.findall(r"(?<=\s)--[a-z][\w-]*", given)
        found += [(where, f"{match[1]} {option}") for option in options if f'"{option}"' not in there]
        needed = re.findall(r'option\("(--[\w-]+)"[^\n]*required=True', code) if where.startswith("pipeline/") else []
        found += [(where, f"{match[1]} without {option}") for option in needed if option not in options]
    wrong(found)


def options() -> Iterator[tuple[str, click.Parameter]]:
    """Each option of each command of ``stages``, with where it is."""
    for path in sorted((ROOT / "stages").glob("[a-z]*.py")):
        main: click.Command = importlib.import_module(f"stages.{path.stem}").main
        for command in main.commands.values() if isinstance(main, click.Group) else [main]:
            yield from ((f"stages.{path.stem}", option) for option in command.params)


def test_an_option_has_one_name() -> None:
    wrong([(where, " ".join(option.opts)) for where, option in options() if len(option.opts) > 1])


def test_the_page_for_clusters_names_every_option_that_gives_a_job_a_part_of_a_cache() -> None:
    page = (ROOT / "docs/CLUSTER.md").read_text()
    parts = [option for _, option in options() if "the pool is filled only" in str(getattr(option, "help", ""))]
    assert len(parts) == 3 and all(f"`{option.opts[0]}" in page for option in parts)


def test_choices_of_configure_are_files_of_configs() -> None:
    pattern = rf"(?<![\w.])({'|'.join(CHOICES)})=(\w+(?:,\w+)*)(?![\w.(<*])"
    found = [
        (where, match[0])
        for where, match in named(pattern)
        if where.startswith("configs/") or "configure" in match.string
        for name in match[2].split(",")
        if not (ROOT / "configs" / match[1] / f"{name}.yaml").is_file() and name != "none"
    ]
    wrong(found)


def test_stages_that_dvc_is_told_to_run_are_there() -> None:
    found = []
    for where, match in named(r"dvc (?:repro|status)((?: --?[a-z-]+)*)((?: [a-z_]+(?:@[\w{}<>]+)?(?![\w`'-]* ?[=]))*)"):
        told = [word for word in match[2].split() if "@" in word or "_" in word or word in DVC_STAGES]
        found += [(where, word) for word in told if word.partition("@")[0] not in DVC_STAGES]
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")}
    for where, match in named(r"(?<![a-z] )[Ss]tage `+(\w+)`+"):
        found += [(where, match[0])] if match[1] not in DVC_STAGES | scripts else []
    wrong(found)


def test_files_are_there() -> None:
    found = []
    for where, match in named(
        r"(?<![\w/.>*:-])((?:pipeline|stages|bench|tests|configs|docs|\.ci)/[\w./-]*\w)(?![\w<*{])"
    ):
        if not (ROOT / match[1]).exists() and not (ROOT / f"{match[1]}.py").is_file():
            found.append((where, match[1]))
    rooms = "|".join(ROOMS)
    for where, match in named(rf"(?<![\w/.-])({rooms})/(\w+)(?:\.py)?(?=[`,) ])", ".md"):
        if not (ROOT / "pipeline" / match[1] / f"{match[2]}.py").is_file() and match[2] != "s":  # views/s
            found.append((where, match[0]))
    wrong(found)


def is_key(section: str, path: list[str]) -> bool:
    """Whether ``path`` leads to a field of the section's model; of a ``fit`` to one of its own."""
    model = MODELS[section]
    for part in path:
        if part == "{}":
            return True
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        inner = [fields[part].annotation, *getattr(fields[part].annotation, "__args__", ())]
        if part.endswith("_args") or part == "md5":
            return True
        model = FitConfig if part == "fit" else next((kind for kind in inner if hasattr(kind, "model_fields")), object)
    return True


def is_module(path: list[str]) -> bool:
    """``room.module``, perhaps with a name in it."""
    return path[0] in ROOMS and (ROOT / "pipeline" / path[0] / f"{path[1]}.py").is_file()


def test_keys_of_params_are_there() -> None:
    sections = {"data": "data", **SECTION} | {plural: plural for plural in SECTION.values()}
    found = []
    pattern = rf"(?<![\w./-])({'|'.join(sections)})((?:\.(?:\w+|<\w+>|\{{\}}))+)"
    for where, match in named(pattern):
        path = match[2].strip(".").split(".")
        section = sections[match[1]]
        key = path[1:] if match[1] == section != "data" else path
        if path[-1] not in ENDINGS and not is_key(section, key) and not is_module([match[1], *path]):
            found.append((where, match[0]))
    wrong(found)


def leaves() -> set[str]:
    found = {"proj_drop_rate", "pos_drop_rate", "img_size", "patch_size"}  # of timm's models
    todo = [*MODELS.values(), FitConfig]
    while todo:
        for name, field in todo.pop().model_fields.items():
            found.add(name)
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            todo += [kind for kind in kinds if hasattr(kind, "model_fields")]
    return found


@pytest.mark.parametrize("verb", ["set", "lower", "raise"])
def test_what_a_message_advises_to_set_is_a_key_or_a_variable(verb: str) -> None:
    other = {"a", "the", "them", "it", "both", "up", "another"}
    found = []
    for where, match in named(rf"(?:[;,] |or ){verb} ([\w.]+)", ".py"):
        key = match[1].rstrip(".").rpartition(".")[2]
        if key not in leaves() | other and not key.isupper():
            found.append((where, match[0]))
    wrong(found)


def test_the_documents_say_how_many_lanes_the_shipped_trainings_have() -> None:
    shipped = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs/training").glob("*.yaml")]
    assert {training["lanes"] for training in shipped} == {8}
    for page in ("README.md", "docs/CLUSTER.md"):
        assert "`lanes` (8 in every shipped training)" in (ROOT / page).read_text()


def test_the_readme_stays_short() -> None:
    size = len((ROOT / "README.md").read_bytes())
    assert size <= 11_000, f"{size} bytes: what a newcomer does not need first belongs to a page of docs"
