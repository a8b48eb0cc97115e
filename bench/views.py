"""What a view costs at 224 px, step by step, on one thread: shares of the whole, from medians of
interleaved rounds.

python -m bench.views

decode: JPEG of 500 x 375 px and about 100 kB to RGB. crop: random resized crop and flip. policy: RandAugment,
as whole draws less the same draws without ops. finish: normalise, erase and mix 64 views at once. Machine
time is shared, so the figures to compare are the ratios.
"""

import argparse
import io
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
import torch
import xxhash
from PIL import Image

from bench.canary_images import picture
from pipeline.data.images import decode
from pipeline.views.choose import choose
from pipeline.views.draw import draw
from pipeline.views.finish import finish, finishing
from pipeline.views.pairs import pair
from pipeline.views.recipe import Mix, Recipe


def jpegs(count: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(picture(generator, 500, 375)).save(buffer, "JPEG", quality=94)
        files.append(buffer.getvalue())
    return files


def measure(views: int, rounds: int, size: int) -> dict[str, float]:
    """Microseconds per view and step."""
    recipe = Recipe(seed=0, size=size, mix=Mix(mixup=0.8, cutmix=1.0))
    data = jpegs(8)
    images = [decode(item, "picture") for item in data]
    chosen = [choose(recipe, f"sample {i}", 0, 375, 500) for i in range(views)]
    plain = [view._replace(ops=()) for view in chosen]
    pixels = [draw(images[i % 8], view, recipe) for i, view in enumerate(chosen)]
    pairs = pair(recipe, "block", 0, views)
    plan, batch = finishing(chosen, pairs, recipe.erase.count), torch.from_numpy(np.stack(pixels))
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode(data[i % 8], "picture") for i in range(views)],
        "choose": lambda: [choose(recipe, f"sample {i}", 0, 375, 500) for i in range(views)],
        "draw": lambda: [draw(images[i % 8], view, recipe) for i, view in enumerate(chosen)],
        "crop": lambda: [draw(images[i % 8], view, recipe) for i, view in enumerate(plain)],
        "digest": lambda: [xxhash.xxh3_64_hexdigest(view) for view in pixels],
        "pair": lambda: pair(recipe, "block", 0, views),
        "plan": lambda: finishing(chosen, pairs, recipe.erase.count),
        "finish": lambda: finish(batch, plan, recipe),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = perf_counter()
            step()
            times[name].append((perf_counter() - start) / views * 1e6)
    result = {name: median(values) for name, values in times.items()}
    result["policy"] = median(a - b for a, b in zip(times["draw"], times["crop"], strict=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cost = measure(given.views, given.rounds, given.size)
    parts = ("decode", "choose", "crop", "policy", "digest", "pair", "plan", "finish")
    whole = sum(cost[name] for name in parts)
    print(f"{'step':8} {'us/view':>9} {'of whole':>9} {'of draw':>9}")
    for name in (*parts, "draw"):
        print(f"{name:8} {cost[name]:9.1f} {cost[name] / whole:9.2%} {cost[name] / cost['draw']:9.2%}")
    once = (whole - cost["decode"] * 2 / 3) / whole
    print(f"decoded once for 3 views: {once:.2f} of the whole cost per view")


if __name__ == "__main__":
    main()
