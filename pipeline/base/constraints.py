"""Every rule of divisibility and size between two numbers of params.yaml.

Letters as in CONTRIBUTING.md: S samples per shard, b per block, V views of a cache, K of a student, G in a part, r repeats,
B batch, L lanes. Each rule raises ``Misfit`` with a way out, so a config model's validator and a stage give the same message.
"""

from pipeline.runtime.errors import UsageError

MAX_CLASSES = 65_534  # hard labels are uint16, and 65535 is their fill value


class Misfit(UsageError, ValueError):
    """A UsageError that is a ValueError too, as pydantic's validators need."""


def require_blocks(shard_size: int, block: int) -> None:
    """b is even, so that a block is whole pairs, and divides S, so that no block lies in two shards."""
    if block % 2 or shard_size % block:
        raise Misfit(f"block {block} must be even and divide shard_size {shard_size}")


def require_groups(views: int, group: int) -> None:
    """G divides V: a cache grows by whole groups, and a part is whole."""
    if views < 1 or views % group:
        raise Misfit(
            f"views V = {views} is no multiple of group G = {group}; a cache grows by whole groups, e.g. "
            f"V = {max(1, round(views / group)) * group}"
        )


def require_view_range(chosen: range, group: int) -> None:
    """A job's views are whole groups, since a part is committed whole."""
    if chosen.start % group or chosen.stop % group:
        raise Misfit(
            f"--only-views: expected whole view groups, multiples of G = {group}, found {chosen.start}:{chosen.stop}"
        )


def require_repeats(repeats: int, group: int) -> None:
    """r divides G, so that no visit lies in two parts of a cache."""
    if group % repeats:
        raise Misfit(
            f"training.repeats: r = {repeats} does not divide cache.group G = {group}, so a visit would lie in two parts of "
            f"the cache; choose a divisor of G"
        )


def require_period(period: int, repeats: int) -> None:
    """r divides K, so that no visit wraps round."""
    if period % repeats:
        raise Misfit(
            f"period K = {period} views is no multiple of training.repeats r = {repeats}: a visit would wrap round; set "
            f"training.period to {period - period % repeats or repeats}"
        )


def require_coverage(period: int, held: int) -> None:
    """K <= V, so that a cache holds all views that a student cycles through."""
    if period > held:
        raise Misfit(
            f"cycles through K = {period} views, and its cache holds V = {held}; set the cache's views to at least K and "
            f"run stages.precompute (it adds only the new ones), lower the training's period, or name a teacher beside the "
            f"cache"
        )


def require_batch(batch: int, lanes: int, accumulate: int) -> None:
    """2L and L * accumulate divide B: each lane gives whole pairs, and equal parts to each accumulated part."""
    if batch % (2 * lanes):
        raise Misfit(
            f"batch: expected a multiple of 2 x lanes = {2 * lanes} (each lane gives whole pairs), found {batch}"
        )
    if batch % (lanes * accumulate):
        raise Misfit(
            f"batch: expected a multiple of lanes x accumulate = {lanes * accumulate} (equal parts on each of up to "
            f"{lanes} processes), found {batch}"
        )


def require_together(batch: int, lanes: int, repeats: int) -> None:
    """B/(2L) >= r: a lane's share of a step has room for the r views of a pair."""
    pairs = batch // (2 * lanes)
    if pairs < repeats:
        raise Misfit(
            f"batch = {batch} over lanes = {lanes} gives {pairs} pairs per lane and step, fewer than repeats r = {repeats}: "
            f"an image's views can't stand in one step; take at most {batch // (2 * repeats)} lanes, a larger batch, or a "
            f"recipe with shared_pairing: 1"
        )


def require_rate(key: str, rate: float, peak: float, made: str) -> None:
    """A schedule's first and last learning rates lie at or below its peak; ``made`` says how the peak is computed."""
    if rate > peak * (1 + 1e-9):  # a rounding of lr x batch / 512 counts as equal
        raise Misfit(
            f"optimizer.{key}: {rate:g} is above the peak learning rate {peak:g} ({made}), so the rate would "
            f"{'fall in the warm-up' if key == 'warmup_lr' else 'rise to its end'}; lower {key}, or raise lr"
        )


def require_world_size(world_size: int, lanes: int, key: str) -> None:
    """The number of ranks divides L; ``key`` is where params.yaml says L."""
    if lanes % world_size:
        fit = [n for n in range(1, lanes + 1) if lanes % n == 0]
        raise Misfit(
            f"world size {world_size} does not divide {key} = {lanes}; start {', '.join(map(str, fit))} processes, or "
            f"choose another {key} (which is another order of training)"
        )
