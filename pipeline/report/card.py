"""The model card of a student: who taught it, from which cache, under which recipe, how good it is, how it is loaded."""

from pathlib import Path

from pipeline.cache.reader import find_store
from pipeline.evaluation.write_scores import read_scores
from pipeline.runtime.config import write_yaml
from pipeline.runtime.errors import PipelineError
from pipeline.runtime.work import Work
from pipeline.student.inputs import NamedStudent

_LOAD = {
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("student.onnx")
probabilities = session.run(["probabilities"], {"images": images})[0]  # float32 (batch, 3, R, R), normalised""",
    "pt2": """import torch
answer = torch.export.load("student.pt2").module()
probabilities, *logits = answer(images)  # float32 (batch, 3, R, R), normalised""",
    "hub-folder": """import timm
model = timm.create_model("local-dir:.", pretrained=True).eval()  # or hf-hub:owner/name once it is there""",
}
_EACH_HEAD = """
# In eval mode it gives the mean of both heads' logits; for each of them:
tokens = model.forward_features(images)
class_logits, distillation_logits = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1])"""


def card(student: NamedStudent, work: Work, kind: str) -> str:
    """The card as Markdown with the hub's header; it says what was not evaluated or is not here."""
    chosen, recipe = student.config, student.recipe
    maker = student.teacher.name if student.teacher is not None else "none"
    identity = _identity(work.cache(chosen.cache)) if student.cache is not None else "no cache"
    each = _EACH_HEAD if kind == "hub-folder" and chosen.token else ""
    head = "---\nlibrary_name: timm\npipeline_tag: image-classification\ntags: [image-classification, distillation, deit]\n---\n"
    parts = [
        head,
        f"# {student.name}\n",
        f"A {chosen.arch} ({chosen.distillation} distillation, targets: {chosen.supervision}).\n",
        f"- teacher: {maker}\n- teacher cache: {identity}\n",
        f"## Answers\n\n{_scores(work.scores(student.name) / 'metrics.json')}\n",
        f"## Loading\n\n```python\n{_LOAD[kind]}{each}\n```\n",
        "Classes, in the order of the outputs: `labels.txt`, one a line.\n",
        f"Images: {recipe.size} px, the middle of the shorter side scaled to size / {recipe.crop_fraction:g} "
        f"({recipe.interpolation}), then (x / 255 - mean) / std with mean {list(recipe.mean)}, std {list(recipe.std)}.\n",
        f"## Recipe of its training views\n\n```yaml\n{write_yaml(recipe.model_dump(mode='json'))}\n```\n",
    ]
    return "\n".join(parts)


def _identity(path: Path) -> str:
    try:
        return find_store(path, None).hash
    except PipelineError:
        return f"{path} (not here)"


def _scores(path: Path) -> str:
    if not path.is_file():
        return "Not evaluated."
    sets = read_scores(path, "python -m stages.evaluate --student NAME")["sets"]
    lines = ["| test set | head | top-1 % | 95 % interval |", "|---|---|---|---|"]
    for label, of in sets.items():
        for head, found in of["heads"].items():
            low, high = found["interval"]
            lines.append(f"| {label} | {head} | {found['top1']:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)
