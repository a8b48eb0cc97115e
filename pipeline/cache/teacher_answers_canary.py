"""Tells caches apart whose teachers rounded differently: digests of the teacher's logits on fixed images.

Equal weights, precision and batch shape give equal bits on equal hardware; a CPU with other vector instructions, or a GPU,
rounds differently in the last bits. Each job that labels appends its digest to the pool's log; a published cache keeps them
as ``canary.json``, never in its identity. Caches made before there were canaries have none.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.base.files import canonical_json, read_small
from pipeline.cache.layout import Store

CANARIES = "canary.json"
_LOG = "log.jsonl"
Canary = Mapping[str, str]  # "logits": digest of the teacher's logits on fixed images; "on": the kind of machine


def canaries(cache: Path) -> list[Canary]:
    """The canaries of a cache, published or in a pool, each once and in a fixed order; what can't be read is left out."""
    found = {}
    for name in (CANARIES, _LOG):
        try:
            lines = read_small(cache / name).splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                entry = json.loads(line)
                for canary in entry if isinstance(entry, list) else [entry["canary"]]:
                    found[str(canary["logits"])] = str(canary["on"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return [{"logits": logits, "on": found[logits]} for logits in sorted(found)]


def note_canaries(pool: Store, own: Sequence[Canary]) -> None:
    """Appends those of ``own`` to the pool's log that it lacks."""
    known = {canary["logits"] for canary in canaries(pool.path)}
    for canary in own:
        if canary["logits"] not in known:
            with (pool.path / _LOG).open("ab", buffering=0) as log:
                log.write(canonical_json({"time": time.time(), "event": "canary", "canary": dict(canary)}))


def rounds_differently(cache: Path, own: Canary) -> str:
    """One sentence if some logits in ``cache`` were rounded otherwise than ``own``, the canary of this machine; else ""."""
    others = [canary["on"] for canary in canaries(cache) if canary["logits"] != own["logits"]]
    if not others:
        return ""
    return (
        f"{cache}: the teacher's logits differ in their last bits between the machine that made them ({', '.join(others)}) "
        f"and this one ({own['on']}): hard labels agree but for ties, live and cached logits are not bit-equal"
    )
