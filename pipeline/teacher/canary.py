"""What this machine's arithmetic makes of a teacher, as one digest: its logits on fixed images at its constant shape."""

import hashlib

import numpy as np
import torch
import xxhash

from pipeline.cache.teacher_answers_canary import Canary
from pipeline.runtime.machine import device_name
from pipeline.teacher.model import Teacher
from pipeline.views.recipe import Recipe

_IMAGES, _SIDE = 16, 8  # different images, each of 8 x 8 even squares of chance colours


def answers_canary(teacher: Teacher, recipe: Recipe) -> Canary:
    """The digest of the logits, and the kind of machine: device, and for a CPU its vector instructions. Costs a forward
    pass. No library draws the images, so a difference is the arithmetic's."""
    stream = hashlib.shake_256(b"teacher canary").digest(_IMAGES * 3 * _SIDE * _SIDE)
    squares = np.frombuffer(stream, np.uint8).reshape(_IMAGES, 3, _SIDE, _SIDE)
    rows = np.arange(recipe.size) * _SIDE // recipe.size
    pixels = squares[:, :, rows][:, :, :, rows].astype(np.float32) / np.float32(255)
    mean, std = (np.array(value, np.float32).reshape(1, 3, 1, 1) for value in (recipe.mean, recipe.std))
    images = np.resize((pixels - mean) / std, (teacher.batch, 3, recipe.size, recipe.size))
    logits = teacher.predict(torch.from_numpy(images).to(teacher.device)).cpu().numpy()
    kind = device_name() if teacher.device.type == "cuda" else f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {"logits": xxhash.xxh3_128(np.ascontiguousarray(logits, "<f4").data).hexdigest(), "on": kind}
