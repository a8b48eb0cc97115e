"""Pictures for a page: views as the teacher saw them, each augmentation by itself, images with where a student looks."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.cache.identity import require_views
from pipeline.cache.reader import Cache, open_cache
from pipeline.data.shards import Block, Shards
from pipeline.runtime.errors import UsageError
from pipeline.runtime.machine import device as pick_device
from pipeline.runtime.text import clipped, printable
from pipeline.views.choose import Targets, choose
from pipeline.views.draw import decode, draw
from pipeline.views.drawn import DrawnVisit, draw_visit, draw_visit_here
from pipeline.views.finish import FinishPlan, finish
from pipeline.views.policies import Op, arguments, parse
from pipeline.views.recipe import Erase, Mix, Recipe, evaluation

SMALL = 64  # px: below, exact PNG; above, JPEG, so that a page of many pictures stays small
_LONGEST = 28  # characters of a class's name under a view
_JITTER = 0.4  # the strength in DeiT's own log, where a recipe has none


def data_uri(pixels: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) as a ``data:`` address."""
    kind = "PNG" if max(pixels.shape[:2]) <= SMALL else "JPEG"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def to_pixels(image: Tensor, recipe: Recipe) -> np.ndarray:
    """A finished view float (3, R, R) as uint8 (R, R, 3)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    values = (image.cpu() * std + mean).clamp(0, 1) * 255
    return values.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def views(
    shards: Shards, recipe: Recipe, path: Path | None, block: int, samples: int, chosen: range
) -> list[list[dict[str, str]]]:
    """The first ``samples`` samples of a block, one in a row, in the ``chosen`` views: ``picture``, ``title`` (label, and
    where two images are mixed the share and the partner) and ``answer``: the teacher's top three classes, its hard label
    where the cache at ``path`` has no logits, "not cached" where it has no such view.

    Raises UsageError for a block that is not there, IdentityError for a cache of other views, IntegrityError for damage
    and for pixels that the teacher did not see.
    """
    cache = open_cache(path) if path is not None else None
    if cache is not None and path is not None:
        require_views(cache, shards, recipe, pick_device(), path)
    if block >= len(shards.blocks):
        raise UsageError(f"--block: expected 0 to {len(shards.blocks) - 1}, found {block}")
    drawn = draw_visit_here(shards, recipe, shards.blocks[block], chosen.start, len(chosen))
    names = [clipped(printable(name), _LONGEST) for name in shards.classes]
    rows: list[list[dict[str, str]]] = [[] for _ in range(min(samples, len(drawn.labels)))]
    for i in range(len(chosen)):
        plan, targets = drawn.plan.view(i), _targets(cache, shards, drawn, i)
        images = finish(drawn.pixels[i], plan, recipe)
        for place, row in enumerate(rows):
            picture, title = data_uri(to_pixels(images[place], recipe)), _title(names, drawn.labels, plan, place)
            row.append({"picture": picture, "title": title, "answer": _answer(names, targets, place)})
    return rows


def _targets(cache: Cache | None, shards: Shards, drawn: DrawnVisit, i: int) -> Targets | None:
    """The teacher's answers on view ``i`` of the visit, which are of the same pixels; None where there are none."""
    view = drawn.first_view + i
    if cache is None or not cache.has(drawn.block, view):
        return None
    cache.require_pixels(drawn.block, view, drawn.digests[i], shards.names[drawn.block.shard])
    return cache.read(drawn.block, view, 1)


def _title(names: Sequence[str], labels: Tensor, plan: FinishPlan, place: int) -> str:
    partner, share = int(plan.partner[place]), float(plan.lam[place])
    if share == 1.0:
        return names[int(labels[place])]
    kind = "cut" if int(plan.box[place, 2]) > int(plan.box[place, 0]) else "mix"
    return f"{names[int(labels[place])]} {share:.3g} {kind} {names[int(labels[partner])]}"


def _answer(names: Sequence[str], targets: Targets | None, place: int) -> str:
    if targets is None:
        return "not cached"
    if targets.logits is None:
        return names[int(targets.hard[0, place])]
    shares = torch.from_numpy(targets.logits[0, place]).softmax(0)
    best = shares.topk(min(3, len(shares)))
    return ", ".join(f"{names[c]} {share:.2f}" for share, c in zip(best.values.tolist(), best.indices.tolist()))


def augmentations(shards: Shards, recipe: Recipe) -> list[tuple[str, str]]:
    """(name, picture) of the first training image: as it is, and after each augmentation of ``recipe`` alone. What the
    recipe leaves off is named so."""
    block = replace(shards.blocks[0], samples=min(2, shards.blocks[0].samples))  # a pair, for mixing
    plain = evaluation(recipe)
    shown = [("the image", _alone(shards, plain, block))]
    for name, on, alone in _alone_recipes(recipe, plain):
        shown.append((name if on else f"{name} (off here)", _alone(shards, alone, block)))
    sample = shards.read(block)[0]
    image = decode(sample.data, sample.key, shards.rule)
    view = choose(plain, sample.key, 0, *image.shape[:2])
    for op in ops_of(recipe):
        pixels = draw(image, view._replace(ops=(op,)), plain)
        shown.append((op[0], np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    return [(name, data_uri(pixels)) for name, pixels in shown]


def _alone_recipes(recipe: Recipe, plain: Recipe) -> Iterator[tuple[str, bool, Recipe]]:
    """Name, whether ``recipe`` has it, and the recipe with nothing else."""

    def alone(**changes: object) -> Recipe:
        return Recipe.model_validate(plain.model_dump() | {"seed": recipe.seed} | changes)

    crop = {name: getattr(recipe, name) for name in ("crop", "scale", "ratio", "padding")}
    erase, mix = recipe.erase.model_dump() | {"probability": 1.0}, recipe.mix
    yield f"crop: {recipe.crop}", recipe.crop != "center", alone(**crop)
    yield "flip", recipe.flip > 0, alone(flip=1.0)
    yield "colour jitter", recipe.color_jitter > 0, alone(color_jitter=recipe.color_jitter or _JITTER)
    yield f"erasing: {recipe.erase.mode}", recipe.erase.probability > 0, alone(erase=Erase.model_validate(erase))
    yield "Mixup", mix.on and mix.mixup > 0, alone(mix=Mix(mixup=mix.mixup or 0.8))
    cut = Mix(cutmix=mix.cutmix or 1.0, cutmix_minmax=mix.cutmix_minmax)
    yield "CutMix", mix.on and (mix.cutmix > 0 or mix.cutmix_minmax is not None), alone(mix=cut)


def _alone(shards: Shards, recipe: Recipe, block: Block) -> np.ndarray:
    drawn = draw_visit(shards, recipe, block, 0, 1)
    return to_pixels(finish(drawn.pixels[0], drawn.plan.view(0), recipe)[0], recipe)


def ops_of(recipe: Recipe) -> list[Op]:
    """Every op that the recipe's policy may choose, at its magnitude, once each."""
    policy = parse(recipe.policy)
    found: dict[str, Op] = {}
    for step in (step for group in (policy.groups if policy else ()) for step in group):
        if step.name != "GaussianBlurRand":
            found.setdefault(step.name, (step.name, arguments(step.name, min(step.magnitude, 10.0), 1.0)))
    return list(found.values())


def looked_at(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) in which what gets little attention, float (rows, columns), is dark."""
    scaled = (255 * attention / max(float(attention.max()), 1e-12)).astype(np.uint8)
    size = (image.shape[1], image.shape[0])
    mask = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC)).astype(np.float32) / 255
    return (image * (0.3 + 0.7 * mask[..., None])).astype(np.uint8)
