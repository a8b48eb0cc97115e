"""The whole pipeline on two dozen photographs, through the command line, as a user runs it by hand."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import timm
import torch
import yaml
import zarr
from click.testing import CliRunner, Result
from PIL import Image

from pipeline import open_rows
from pipeline.cache.reader import open_cache
from pipeline.data.images import Rule
from pipeline.data.shards import Shards
from pipeline.evaluation.answers import read_answers
from pipeline.runtime.code import ROOT
from pipeline.student.export import load_student
from pipeline.views.draw import draw_block
from pipeline.views.recipe import Recipe
from pipeline.views.validation import validation
from stages import (
    answers,
    configure,
    evaluate,
    export,
    fit_teacher,
    index,
    inspect,
    plan,
    precompute,
    predict,
    report,
    shard,
    train,
    verify,
)
from tests.support import browser, numbers
from tests.support.photos import make_photo_folder

OVERRIDES = [
    "data=folder",
    "student=photos_plain,photos_hard_token",
    "data.shard_size=16", "data.block=8",
    "recipe.size=32",
    "teacher.arch=test_byobnet", "teacher.fit.epochs=2", "teacher.fit.batch=8", "teacher.fit.window=1",
    "cache.views=6", "cache.group=3",
    "training.epochs=4", "training.period=6", "training.batch=8", "training.window=2",
    "training.optimizer.warmup_epochs=1", "training.lanes=1", "teacher.fit.lanes=1",
    "students.photos_plain.arch_args={img_size: 32, patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}",
    "students.photos_hard_token.arch_args={img_size: 32, patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}",
]  # fmt: skip


def run(command: object, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result  # .stdout is what a script reads; progress goes to standard error


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything run once, in a folder of its own."""
    folder = tmp_path_factory.mktemp("project")
    make_photo_folder(folder / "photos", per_class=5)
    configs = Path("configs").absolute()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DATA_ROOT", str(folder / "photos"))
        patch.setenv("DISTIL_WORKERS", "0")
        run(configure.main, *OVERRIDES, "--configs", configs)
        run(index.main)
        run(shard.main)
        run(fit_teacher.main, "--teacher", "regnety_photos")
        run(precompute.main, "--cache", "photos")
        run(answers.main, "--teacher", "regnety_photos")
        for name in ("photos_plain", "photos_hard_token"):
            run(train.main, "--student", name)
            run(evaluate.main, "--student", name)
        run(report.main)
        yield folder / "work"


def test_every_image_is_in_the_shards_and_every_view_in_the_cache(work: Path) -> None:
    manifest = json.loads((work / "shards/train/manifest.json").read_text())
    assert manifest["samples"] == 25 and len(manifest["classes"]) == 5
    cache = open_cache(work / "caches/photos")
    assert cache.views == 6 and cache.missing(6) == []
    hard = zarr.open_group(work / "caches/photos", mode="r")["hard"]  # any Zarr v3 reader can read it
    assert hard.shape == (6, 25) and int(np.asarray(hard[:]).max()) < 5


def test_student_loads_in_timm_with_the_weights_that_were_evaluated(work: Path) -> None:
    model = timm.create_model(f"local-dir:{work / 'students/photos_hard_token'}", pretrained=True)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_the_example_of_a_loop_of_ones_own_trains_another_model_from_the_cache(work: Path, capsys) -> None:
    examples = importlib.util.spec_from_file_location("own_loop", ROOT / "examples" / "own_loop.py")
    example = importlib.util.module_from_spec(examples)
    examples.loader.exec_module(example)
    losses = example.main("params.yaml", "photos_hard_token", "work", "test_resnet", 8)
    assert len(losses) == 8 and np.isfinite(losses).all()
    assert "top-1 on the validation split" in capsys.readouterr().out
    rows = open_rows(work / "caches/photos", work / "shards/train")
    assert rows[next(iter(rows.places)), 5].logits.shape == (5,)


def test_scores_have_every_head_and_dvc_its_few_columns(work: Path) -> None:
    token = json.loads((work / "eval/photos_hard_token/metrics.json").read_text())
    val = token["sets"]["val"]
    assert set(val["heads"]) == set(val["ema"]) == {"class", "distillation", "fused", "mean"}
    assert token["live_fraction"] == 0.0 and len(token["tokens"]["layers"]) == 3 and token["parameters"] > 50_000
    for shares in val["heads"].values():
        assert 0 <= shares["interval"][0] <= shares["top1"] <= shares["interval"][1] <= 100
    assert set(json.loads((work / "eval/photos_plain/metrics.json").read_text())["sets"]["val"]["heads"]) == {"class"}
    shown = json.loads((work / "metrics/photos_hard_token.json").read_text())
    assert shown["top1"] == val["heads"]["fused"]["top1"] and len(shown) == 4
    assert len((work / "curves/photos_plain.csv").read_text().splitlines()) == 5
    assert len((work / "confusion/photos_plain.csv").read_text().splitlines()) == 11


def test_answers_are_those_of_timms_model_on_the_same_views(work: Path) -> None:
    """The stored ranks and logits, against the exported model run by hand."""
    found = read_answers(work / "eval/photos_hard_token/val.npz", "x")
    model = timm.create_model(f"local-dir:{work / 'students/photos_hard_token'}", pretrained=True).eval()
    params = yaml.safe_load(Path("params.yaml").read_text())
    recipe = Recipe.model_validate_json(json.dumps(params["recipes"]["photos"]))
    seen = next(validation(Shards.open(work / "shards/val"), recipe, torch.device("cpu"), 0))
    with torch.inference_mode():
        tokens = model.forward_features(seen.images)
        scores = {"class": model.head(tokens[:, 0]), "distillation": model.head_dist(tokens[:, 1])}
        scores["mean"] = model(seen.images)  # what timm gives
    rows = len(seen.labels)
    for head, those in scores.items():
        assert (found.ranks[head][:rows] == (those > those.gather(1, seen.labels[:, None])).sum(1).numpy()).all()
        if head != "mean":
            assert np.array_equal(found.logits[head][:rows], those.half().numpy())


def test_the_report_compares_everybody_and_needs_no_network(work: Path) -> None:
    summary = json.loads((work / "report/summary.json").read_text())
    teacher, students = summary["teachers"]["regnety_photos"], summary["students"]
    assert 0 <= teacher["top1"] <= 100 and list(students) == ["photos_plain", "photos_hard_token"]
    token = students["photos_hard_token"]
    assert token["teacher"] == "regnety_photos" and 0 <= token["agreement"]["regnety_photos"]["percent"] <= 100
    assert summary["disagreement"]["names"] == ["labels", "regnety_photos", "photos_plain"] + [
        f"photos_hard_token: {head}" for head in ("class", "distillation", "both")
    ]
    assert summary["disagreement"]["matrix"][0][1] == pytest.approx(1 - teacher["top1"] / 100)
    assert {"shard", "fit_teacher:regnety_photos", "precompute:photos", "train:photos_plain"} <= set(summary["seconds"])
    assert summary["seconds"]["evaluate:photos_plain"]["images_per_second"] > 0
    assert summary["caches"]["photos"]["verified"] == {"parts": 4, "whole": 4, "damaged": 0}
    page = (work / "report/index.html").read_text()
    assert "http" not in page and len(page) < 2_000_000
    assert "photos_hard_token" in run(report.main, "--show", work / "report/summary.json").output
    assert "| photos_hard_token | hard |" in (work / "report/summary.md").read_text()


def test_every_number_of_the_page_has_a_source_that_says_it(work: Path) -> None:
    looked_up, bare = numbers.check(work, Path("params.yaml"))
    assert looked_up > 200 and not bare


@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed; .ci/run installs it and fails without")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_in_a_browser(work: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """No text cut, overlapping or faint, no console error, no request."""
    said = browser.look(work / "report/index.html", width, dark, tmp_path)
    assert said.pop("texts") > 400
    assert said == {"found": [], "requests": [], "console": [], "width": width, "dark": dark}


@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")
def test_what_would_be_wrong_with_a_page_is_found(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "there.png")
    (tmp_path / "page.html").write_text("""<body style="background:#fff"><p>one</p><p style="margin-top:-2rem">two</p>
<p style="color:#ddd">faint</p><p style="width:2000px;text-align:right">far</p><script>missing()</script>
<img src="there.png"><svg viewBox="0 0 9 9" width="90" height="90"><text x="5" y="5" font-size="5">cut</text></svg></body>""")
    said = browser.look(tmp_path / "page.html", 390, False, tmp_path)
    assert set(said["found"]) == {
        "overlap: one / two", "little contrast: faint", "outside the page: far", "cut in a figure: cut",
        "the page is wider than the window",
    }  # fmt: skip
    assert len(said["requests"]) == 1 and any("missing is not defined" in line for line in said["console"])


def test_tools_read_what_the_stages_wrote(work: Path) -> None:
    found = json.loads(run(inspect.cache, work / "caches/photos", "--shards", work / "shards/train", "--json").stdout)
    assert found["coverage_percent"] == 100.0 and sum(found["answers"]["histogram"].values()) == 150
    run(inspect.views, "--recipe", "photos", "--cache", "photos", "--out", work / "views.html")
    page = (work / "views.html").read_text()
    assert page.count("<figure>") == page.count('src="data:image/') == 36 and not re.search(
        r'(src|href)="(?!data:)', page
    )
    assert "4 of 4 parts whole" in run(verify.main, work / "caches/photos").output
    again = run(verify.main, work / "caches/photos", "--audit", 2, "--json")
    audit = json.loads(again.stdout)[0]["audit"]
    assert audit["equal"] == audit["hard_equal"] == audit["rows"] > 0 and audit["pixels_equal"] == audit["views"]
    planned = json.loads(run(plan.main, "--json").stdout)
    assert planned["cache"]["parts"] == 4 and planned["cache"]["teacher_forward_passes"] == 150


def test_predict_says_what_evaluate_scored_and_lists_bad_files(work: Path) -> None:
    val, manifest = Path("photos/val"), Shards.open(work / "shards/val")
    found = json.loads(run(predict.main, val, "--student", "photos_hard_token", "--json").stdout)
    kept = read_answers(work / "eval/photos_hard_token/val.npz", "x")
    rows = {key: row for row, key in enumerate(key for block in manifest.blocks for key in manifest.keys(block))}
    assert len(found["images"]) == len(rows) == 10 and not found["unusable"]
    for image in found["images"]:
        row = rows[str(Path(image["path"]).relative_to(val).with_suffix(""))]
        assert set(image["heads"]) == {"class", "distillation", "fused"}
        for head, best in image["heads"].items():
            assert best[0]["class"] == kept.classes[kept.hard[head][row]] and len(best) == 5
            assert sum(entry["probability"] for entry in best) == pytest.approx(1.0, abs=1e-5)
    Path("mine").mkdir()
    shutil.copy(next(val.rglob("*.JPEG")), "mine/good.jpg")
    Path("mine/bad.jpg").write_bytes(b"no image")
    result = CliRunner().invoke(predict.main, ["mine", "--student", "photos_plain"])
    assert (
        result.exit_code == 3
        and "1 of 2 files are no images that can be read, first: mine/bad.jpg: not a" in result.output
    )
    assert "mine/good.jpg" in result.output and "class  " in result.output
    result = CliRunner().invoke(predict.main, ["nowhere", "--student", "photos_plain"])
    assert result.exit_code == 2 and "nowhere: no such image" in result.output


@pytest.mark.parametrize("name", ["photos_plain", "photos_hard_token"])
def test_the_hub_folder_gives_timm_both_heads_bit_for_bit(work: Path, name: str) -> None:
    found = json.loads(run(export.main, "--student", name, "--to", "hub-folder", "--json").stdout)
    assert found["largest_difference"] == 0.0
    folder = work / "exports" / name / "hub-folder"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    own = load_student(work / "students" / name)
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32))
    with torch.inference_mode():
        heads, tokens = own(images), model.forward_features(images)
        assert torch.equal(heads.class_logits, model.head(tokens[:, 0]))
        if heads.distillation_logits is not None:
            assert torch.equal(heads.distillation_logits, model.head_dist(tokens[:, 1]))
    card = (folder / "README.md").read_text()
    cache = "no cache" if name == "photos_plain" else open_cache(work / "caches/photos").hash
    assert f"- teacher cache: {cache}" in card and "| val | class |" in card and "timm.create_model" in card


def test_onnx_and_pt2_answer_as_the_student_does(work: Path) -> None:
    found = json.loads(run(export.main, "--student", "photos_hard_token", "--to", "pt2", "--json").stdout)
    assert found["largest_difference"] <= 1e-5 and Path(found["path"]).is_file()
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the optional group export is not installed")
    found = json.loads(run(export.main, "--student", "photos_hard_token", "--to", "onnx", "--json").stdout)
    assert found["largest_difference"] <= 1e-5 and Path(found["path"]).is_file()
    import onnx

    graph = onnx.load(found["path"]).graph
    assert [output.name for output in graph.output] == ["probabilities", "class_logits", "distillation_logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_onnx_without_its_tools_is_refused_with_what_to_install(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    result = CliRunner().invoke(export.main, ["--student", "photos_plain", "--to", "onnx"])
    assert result.exit_code == 2 and "onnxruntime" in result.output and "uv sync --group export" in result.output


def test_a_student_of_another_recipe_is_refused_before_training(work: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["recipes"]["photos"]["erase"]["probability"] = 0.5
    Path("other.yaml").write_text(yaml.safe_dump(params))
    before = (work / "students/photos_hard_token/log.csv").read_bytes()
    result = CliRunner().invoke(train.main, ["--params", "other.yaml", "--student", "photos_hard_token"])
    assert result.exit_code == 4
    assert "recipe.erase.probability: expected 0.5, found 0.25" in result.output
    assert (work / "students/photos_hard_token/log.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("codec", "f16", "layout.codec: expected 'f16', found 'u8'"),
        ("views", 9, "holds V = 6 views, params.yaml says 9"),
    ],
)
def test_a_cache_that_is_not_what_params_say_is_refused(work: Path, key: str, value: object, field: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["caches"]["photos"][key] = value
    params["trainings"]["photos"]["period"] = None
    Path("other.yaml").write_text(yaml.safe_dump(params))
    result = CliRunner().invoke(train.main, ["--params", "other.yaml", "--student", "photos_hard_token"])
    assert result.exit_code in (2, 4) and field in result.output, result.output


def test_a_student_is_not_scored_on_other_classes_or_views_than_its_own(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["recipes"]["photos"] |= {"mean": [0.1, 0.1, 0.1], "size": 48}
    Path("other.yaml").write_text(yaml.safe_dump(params))
    before = (work / "eval/photos_plain/metrics.json").read_bytes()
    arguments = ["--student", "photos_plain"]
    result = CliRunner().invoke(evaluate.main, [*arguments, "--params", "other.yaml"])
    assert result.exit_code == 4, result.output
    assert "mean[0]: expected 0.1, found 0.485" in result.output and "input_size[1]: expected 48" in result.output
    shutil.copytree("photos", "renamed-photos")
    for split in ("train", "val"):
        Path("renamed-photos", split, "cat").rename(Path("renamed-photos", split, "zebra"))
    monkeypatch.setenv("DATA_ROOT", "renamed-photos")
    run(index.main, "--out", "renamed.tsv")
    run(shard.main, "--index", "renamed.tsv", "--out", "renamed")
    result = CliRunner().invoke(evaluate.main, [*arguments, "--shards", "renamed"])
    assert result.exit_code == 4 and "label_names" in result.output and "'zebra'" in result.output
    assert (work / "eval/photos_plain/metrics.json").read_bytes() == before


def test_a_student_is_not_compared_with_answers_on_other_pixels(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the image library that the canary's pictures do not show."""

    def other(samples: list, recipe: Recipe, first_view: int, out: np.ndarray, rule: Rule) -> list:
        chosen = draw_block(samples, recipe, first_view, out, rule)
        np.maximum(out, 1, out=out)
        return chosen

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.views.drawn.draw_block", other)
        run(evaluate.main, "--student", "photos_plain")
        result = CliRunner().invoke(inspect.views, ["--recipe", "photos", "--cache", "photos", "--out", "x.html"])
        assert result.exit_code == 3 and "log.jsonl in the work pool names it" in result.output
    result = CliRunner().invoke(report.main)
    assert result.exit_code == 3
    assert "teacher regnety_photos and photos_plain saw other pixels of the same images" in result.output
    run(evaluate.main, "--student", "photos_plain")
    result = CliRunner().invoke(inspect.views, ["--recipe", "photos", "--out", "x.png"])
    assert result.exit_code == 2 and "expected a name that ends in .html, found x.png" in result.output
    assert not Path("x.html").exists() and not Path("x.png").exists()


def replaced(path: Path, content: bytes, command: click.Command, *arguments: str, sums: bool = True) -> Result:
    """What a command says while ``path`` holds ``content``; without ``sums`` as in a folder that earlier code wrote."""
    beside = path.with_name("sums.json")
    kept = path.read_bytes(), beside.read_bytes()
    path.write_bytes(content)
    if not sums:
        beside.unlink()
    result = CliRunner().invoke(command, list(arguments))
    path.write_bytes(kept[0])
    beside.write_bytes(kept[1])
    return result


def test_damaged_scores_answers_of_another_student_and_a_pool_to_audit_are_refused(work: Path) -> None:
    for name, content, code, sentence in [
        ("metrics.json", b"{}", 3, "not the scores of a student (scores.sets: Field required)"),
        ("metrics.json", b"{", 3, "not the scores of a student (Expecting"),
        ("val.npz", (work / "eval/photos_hard_token/val.npz").read_bytes(), 4, "val.npz: answers of another model"),
        ("val.npz", (work / "eval/photos_plain/val.npz").read_bytes()[:-100], 3, "not whole answers"),
    ]:
        path = work / "eval/photos_plain" / name
        by_sum, result = replaced(path, content, report.main), replaced(path, content, report.main, sums=False)
        assert by_sum.exit_code == 3 and f"{name}: " in by_sum.output, by_sum.output
        assert result.exit_code == code and sentence in result.output, result.output
        assert "python -m stages.evaluate --student photos_plain" in result.output
    content = (work / "eval/photos_plain/val.npz").read_bytes()
    result = replaced(work / "answers/regnety_photos/val.npz", content, report.main, sums=False)
    assert result.exit_code == 4 and "python -m stages.answers --teacher regnety_photos" in result.output
    exported = (export.main, "--student", "photos_plain", "--to", "hub-folder", "--out", str(work / "card"))
    result = replaced(work / "eval/photos_plain/metrics.json", b"{}", *exported)
    assert (
        result.exit_code == 3 and "metrics.json: damaged, sha256 is" in result.output and not (work / "card").exists()
    )
    weights = work / "students/photos_plain/model.safetensors"
    for sums, sentence in ((True, "model.safetensors: damaged"), (False, "damaged weights")):
        cut = weights.read_bytes()[:-1000]
        result = replaced(weights, cut, evaluate.main, "--student", "photos_plain", sums=sums)
        assert result.exit_code == 3 and sentence in result.output, result.output
    result = CliRunner().invoke(verify.main, [str(work / "pool"), "--audit", "1", "--cache", "photos"])
    assert result.exit_code == 2 and "no teacher cache" in result.output


def test_no_stage_replaces_a_folder_that_is_not_its_own_output(work: Path) -> None:
    calls = [
        (shard.main, [], "shards"),
        (fit_teacher.main, ["--teacher", "regnety_photos"], "teachers/regnety_photos"),
        (precompute.main, ["--cache", "photos"], "caches/photos"),
        (answers.main, ["--teacher", "regnety_photos"], "answers/regnety_photos"),
        (train.main, ["--student", "photos_plain"], "students/photos_plain"),
        (evaluate.main, ["--student", "photos_plain"], "eval/photos_plain"),
        (report.main, [], "report"),
    ]
    for command, arguments, out in calls:
        aside = work / f"{out}-aside"
        (work / out).rename(aside)
        try:
            (work / out).mkdir()
            (work / out / "thesis.txt").write_text("years of work")
            result = CliRunner().invoke(command, arguments)
            assert result.exit_code == 2, result.output
            assert "expected a new or empty directory" in result.output
            assert (work / out / "thesis.txt").read_text() == "years of work"
        finally:
            shutil.rmtree(work / out)
            aside.rename(work / out)


def test_a_cache_is_never_replaced_by_one_of_another_identity(work: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["recipes"]["photos"]["crop"] = "center"
    Path("other.yaml").write_text(yaml.safe_dump(params))
    result = CliRunner().invoke(precompute.main, ["--params", "other.yaml", "--cache", "photos"])
    assert result.exit_code == 4 and "recipe.crop: expected 'center', found 'random_resized'" in result.output
    assert open_cache(work / "caches/photos").views == 6
