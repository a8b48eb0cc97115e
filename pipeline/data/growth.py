"""The order of the training images, kept while the data grow, so that a change writes few shards anew.

``index.tsv`` lists the training images of a folder in the order in which ``shard`` packs them, then all other files. The next
``index`` reads it before it writes the new one: images that are still there keep their places, the last ones take the places of
those that are gone, and new ones follow in keyed order. A split is kept as well: of what ``data.val_share`` holds out, only
new images fill up validation.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from pipeline.base.files import digest
from pipeline.data import folders
from pipeline.data.index_file import Order, read_listing, read_order
from pipeline.data.listing import Entry, File, Problems, keyed_rank
from pipeline.data.sources import DataConfig
from pipeline.data.splits import held_out
from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.progress import say

_GROWING = ("folder", "imagenet")


def kept_copy(pool: Path, config: DataConfig, root: Path) -> Path:
    """Where the work pool keeps the last order of this source, for a clone or a folder ``work`` that has lost its own."""
    return pool / "orders" / f"{digest([config.source, str(root.resolve()), config.seed, config.val_share])[:16]}.tsv"


def in_kept_order(
    config: DataConfig, root: Path, listed: list[File], index: Path | None
) -> tuple[list[File], Order | None]:
    """``listed`` as ``index.tsv`` holds it, and what its head says of the order; ``index``: the last one, None for a new order.

    Raises IntegrityError for a last one that is damaged, and UsageError or IntegrityError where labels are missing: without
    them the order would be lost. None for sources whose files are no samples.
    """
    if config.source not in _GROWING:
        return listed, None
    named = Order(config.seed, config.val_share, 0)
    files = {file.path: file for file in listed}
    last, found = _last(index, config.source) if index is not None and index.is_file() else ([], None)
    before = found or named
    if before[:2] != named[:2]:
        say(f"{index}: made for another data.seed or data.val_share; the images are packed in a new order")
        last, before = [], named
    # An image that was emptied has lost its place, one that was empty has none yet.
    if last and len(last) == len(files) and all(_usable(old) == _usable(files.get(old.path)) for old in last):
        return [files[old.path] for old in last], before
    train = [old.path for old in last[: before.train]]
    # Labels and keys, which only a change or a new order needs.
    problems = Problems()
    _, splits = folders.read(root, listed, problems, config.source == "imagenet", config.val_share is not None)
    if problems.count:
        problems.check(root)
    entries, packed = splits["train"].entries, {*train}
    fresh = [entry for entry in entries if entry.path not in packed]
    if config.val_share is not None:
        validation = {old.path for old in last[before.train :] if _usable(old)}
        held = Counter(entry.label for entry in fresh if entry.path in validation)
        fresh = _to_train(entries, [entry for entry in fresh if entry.path not in validation], held, config)
    kept = _without_holes(train, {entry.path for entry in entries})
    added = [entry.path for entry in sorted(fresh, key=lambda entry: keyed_rank(entry.key, config.seed))]
    if not train:
        say(f"index: a new order of {len(added)} training images")
    else:
        gone = len(train) - len(kept)
        say(
            f"index: {len(added)} new training images follow the {len(kept)} that were packed; {gone} of those are gone"
        )
    chosen = [*kept, *added]
    rest = files.keys() - set(chosen)
    return [files[path] for path in chosen] + [file for file in listed if file.path in rest], named._replace(
        train=len(chosen)
    )


def _usable(file: File | None) -> bool | None:
    """Whether a file can be a sample; None without one."""
    return None if file is None else file.size > 0


def _last(index: Path, source: str) -> tuple[list[File], Order | None]:
    """The last listing and its order; none where it has no order, as those of earlier versions."""
    try:
        order = read_order(index, source)
        return (read_listing(index, source), order) if order else ([], None)
    except IntegrityError as error:
        raise IntegrityError(
            f"{error}; the order of the images is in it: restore it (dvc checkout brings that of work), or start a new one: "
            f"python -m stages.index --reorder"
        ) from None


def _to_train(
    entries: Sequence[Entry], fresh: Sequence[Entry], held: Mapping[int, int], config: DataConfig
) -> list[Entry]:
    """Those of the ``fresh`` samples that validation, of which it holds ``held`` by label, does not need."""
    assert config.val_share is not None
    groups: dict[int, list[Entry]] = defaultdict(list)
    for entry in fresh:
        groups[entry.label].append(entry)
    count, chosen = Counter(entry.label for entry in entries), set[str]()
    for label, group in groups.items():
        lacking = held_out(count[label], config.val_share) - held.get(label, 0)
        ranked = sorted(group, key=lambda entry: keyed_rank(entry.key, config.seed, b"validation"))
        chosen |= {entry.path for entry in ranked[: max(0, lacking)]}
    return [entry for entry in fresh if entry.path not in chosen]


def _without_holes(order: Sequence[str], there: Container[str]) -> list[str]:
    """``order`` of those that are ``there``; the last ones take the places of the others."""
    kept, place = list(order), 0
    while kept:
        while kept and kept[-1] not in there:
            kept.pop()
        if place >= len(kept):
            break
        if kept[place] not in there:
            kept[place] = kept.pop()
        place += 1
    return kept
