"""Small pictures in the page: views, each augmentation by itself, images with where a student looks."""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pipeline.data.shards import Block, Shards
from pipeline.views.choose import choose
from pipeline.views.draw import decode, draw
from pipeline.views.drawn import draw_visit
from pipeline.views.finish import finish
from pipeline.views.policies import Op, arguments, parse
from pipeline.views.recipe import Erase, Mix, Recipe, evaluation

_SMALL = 64  # px: below, exact PNG; above, JPEG, so that a page of many pictures stays small
_JITTER = 0.4  # the strength in DeiT's own log, where a recipe has none


def data_uri(pixels: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) as a ``data:`` address."""
    kind = "PNG" if max(pixels.shape[:2]) <= _SMALL else "JPEG"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


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


def to_pixels(image: torch.Tensor, recipe: Recipe) -> np.ndarray:
    """A finished view float (3, R, R) as uint8 (R, R, 3)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    values = (image.cpu() * std + mean).clamp(0, 1) * 255
    return values.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def rows_of(shards: Shards, rows: list[int], recipe: Recipe) -> list[torch.Tensor]:
    """Samples of a split by their row, as finished evaluation views float (3, R, R)."""
    plain, found = evaluation(recipe), []
    for row in rows:
        block = next(block for block in shards.blocks if block.row <= row < block.row + block.samples)
        place = row - block.row
        one = Block(block.index, block.shard, block.first + place, row, 1)
        drawn = draw_visit(shards, plain, one, 0, 1)
        found.append(finish(drawn.pixels[0], drawn.plan.view(0), plain)[0])
    return found


def first_views(shards: Shards, recipe: Recipe, most: int) -> torch.Tensor:
    """The first samples of a split, at most ``most``, as finished evaluation views float (n, 3, R, R)."""
    plain, found, count = evaluation(recipe), list[torch.Tensor](), 0
    for block in shards.blocks:
        if count < most:
            drawn = draw_visit(shards, plain, replace(block, samples=min(block.samples, most - count)), 0, 1)
            found.append(finish(drawn.pixels[0], drawn.plan.view(0), plain))
            count += len(found[-1])
    return torch.cat(found)


def looked_at(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) in which what gets little attention, float (rows, columns), is dark."""
    scaled = (255 * attention / max(float(attention.max()), 1e-12)).astype(np.uint8)
    size = (image.shape[1], image.shape[0])
    mask = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC)).astype(np.float32) / 255
    return (image * (0.3 + 0.7 * mask[..., None])).astype(np.uint8)
