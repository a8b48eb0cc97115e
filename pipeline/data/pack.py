"""Writes shards: WebDataset tars, indices and the manifest. Two runs give identical bytes."""

import hashlib
import io
import itertools
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import xxhash

from pipeline.base import files
from pipeline.base.sums import summed_directory
from pipeline.data import tars
from pipeline.data.images import MAX_BYTES, Rule, Undecodable, compile_resize, prepare
from pipeline.data.listing import Entry, Problems, Split, difference_in, keyed_rank
from pipeline.data.manifest import Manifest, Quarantined, ShardRecord, index_path, shard_name
from pipeline.data.pack_notes import NO_NOTES, PackNotes, say_notes, say_twins
from pipeline.data.shards import INDEX_DTYPES
from pipeline.data.sources import DataConfig, require_few_quarantined
from pipeline.runtime.errors import IntegrityError
from pipeline.runtime.progress import progress

_INLINE = 4096  # fewer images than this are packed in this process: starting others would take longer


@dataclass(frozen=True)
class _Task:
    tar: Path
    entries: list[Entry]
    rule: Rule
    resize: int | None


def pack_splits(
    config: DataConfig,
    classes: tuple[str, ...],
    splits: dict[str, Split],
    out: Path,
    workers: int,
    ordered: bool = False,
) -> dict[str, Manifest]:
    """Writes ``out/train`` and ``out/val``, whole or not at all; ``out`` is replaced if it holds shards. ``ordered``: training
    samples come in the order of packing.

    Every image is decoded once. Raises IntegrityError, before anything is written, that lists all unusable files, if they are
    more than ``max_quarantined``, and every class that has lost all its images.
    """
    manifests: dict[str, Manifest] = {}
    digests: dict[str, np.ndarray] = {}  # of each split's images, in their order
    problems = Problems()  # of both splits
    quarantined: list[tuple[str, str]] = []
    marks = ("train/manifest.json", "val/manifest.json")
    with summed_directory(out, marks, covered="*/manifest.json") as directory:
        for name, split in splits.items():
            quarantined += split.quarantined
            entries = order(split.entries, config.seed) if name == "train" and not ordered else split.entries
            if not entries:
                problems.usage(f"{name}: no images")
            with progress(f"shard {name}", len(entries), "images") as tick:
                allowed = config.max_quarantined - len(quarantined)
                records, unusable, notes = _write_shards(config, entries, directory / name, workers, allowed, tick)
            say_notes(name, notes, config.orientation)
            digests[name] = notes.digests
            quarantined += unusable
            if len(quarantined) > config.max_quarantined:
                continue  # the other split's unusable files are to be listed as well
            left_out = {path for path, _ in unusable}
            lost = {entry.label for entry in entries} - {entry.label for entry in entries if entry.path not in left_out}
            for label in sorted(lost):
                what = f"{name}: class {classes[label]!r}: no usable image is left"
                problems.damage(f"{what}; mend its images, or remove the class")
            if records:
                of_split = [*split.quarantined, *unusable]
                manifests[name] = _write_manifest(config, classes, name, records, of_split, directory / name)
                if manifests[name].samples + len(unusable) != len(entries):
                    counts = f"{manifests[name].samples} kept and {len(unusable)} quarantined"
                    raise IntegrityError(f"{name} split: {counts} do not add up to {len(entries)}")
        require_few_quarantined(quarantined, config.max_quarantined, problems)
        problems.check("nothing written")
    if "train" in splits:  # not of a test set, which is one split
        say_twins(splits, manifests["val"].quarantined, digests)
    return manifests


def order(entries: list[Entry], seed: int) -> list[Entry]:
    """The order of training samples: by a keyed hash of their keys, so it does not depend on the listing's order."""
    return sorted(entries, key=lambda entry: keyed_rank(entry.key, seed))


def _write_shards(
    config: DataConfig, entries: list[Entry], directory: Path, workers: int, allowed: int, tick: Callable[..., None]
) -> tuple[list[ShardRecord], list[tuple[str, str]], PackNotes]:
    """Writes the shards of ``entries`` without the unusable ones, which are returned with their reasons. Stops early if they
    are more than ``allowed``."""
    (directory / "index").mkdir(parents=True)
    records: list[ShardRecord] = []
    total = NO_NOTES
    quarantined: list[tuple[str, str]] = []
    size = config.shard_size
    if config.resize is not None:
        compile_resize()
    while len(records) * size < len(entries):
        tasks = [
            _Task(directory / shard_name(at // size), entries[at : at + size], config.rule, config.resize)
            for at in range(len(records) * size, len(entries), size)
        ]
        bad: list[tuple[str, str]] = []
        with _mapper(workers if len(entries) >= _INLINE else 1) as mapper:
            for task, (record, reasons, notes) in zip(tasks, mapper(_write_shard, tasks)):
                bad += reasons
                if record is not None and not bad:
                    records.append(record)
                    total += notes
                elif record is not None:  # samples after an unusable one move up, so their shards are written again
                    task.tar.unlink()
                    index_path(directory, task.tar.name).unlink()
                tick(len(task.entries))
        quarantined += bad
        if len(quarantined) > allowed:
            break
        left_out = {path for path, _ in bad}
        entries = [entry for entry in entries if entry.path not in left_out]
    return records, quarantined, total


def _write_manifest(
    config: DataConfig,
    classes: tuple[str, ...],
    name: str,
    records: list[ShardRecord],
    quarantined: list[tuple[str, str]],
    directory: Path,
) -> Manifest:
    manifest = Manifest(
        split="train" if name == "train" else "val",
        classes=classes,
        samples=sum(record.samples for record in records),
        shard_size=config.shard_size,
        block=config.block,
        shards=tuple(records),
        quarantined=tuple(Quarantined(path=path, reason=reason) for path, reason in sorted(quarantined)),
        orientation=config.orientation,
        max_pixels=config.max_pixels,
        val_share=config.val_share,
    )
    files.write_durably(directory / "manifest.json", manifest.content())
    files.fsync(directory / "index")
    return manifest


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator]]:
    if workers <= 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver")  # a fork of a process with threads may hang
    context.set_forkserver_preload(["pipeline.data.pack"])
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)  # a full disk must not wait for all the other shards


def _write_shard(task: _Task) -> tuple[ShardRecord | None, list[tuple[str, str]], PackNotes]:
    """Writes one tar and its index; if an image is unusable, there is no record, but reasons."""
    bad: list[tuple[str, str]] = []
    digests: list[int] = []
    rotated = broken = 0
    sizes: list[tuple[int, int]] = []  # of converted images, before and after
    with task.tar.open("wb") as file, tars.TarWriter(file, encoder=False, mtime=0) as writer:
        for entry in task.entries:
            try:
                original = read_entry(entry)
                image = prepare(original, entry.path, task.rule, task.resize)
            except Undecodable as error:
                bad.append((entry.path, error.reason))
            except OSError as error:
                bad.append((entry.path, f"unreadable: {error.strerror}"))
            else:
                digests.append(xxhash.xxh3_64_intdigest(original))
                rotated += image.rotated
                broken += image.broken
                if image.converted:
                    sizes.append((len(original), len(image.data)))
                if not bad:  # else the tar is going to be written again without the bad ones
                    member = {image.kind or entry.kind: image.data, "cls": str(entry.label).encode("ascii")}
                    writer.write({"__key__": entry.key} | member)
    if bad:
        task.tar.unlink()
        return None, bad, NO_NOTES
    found, packed = (sum(size) for size in zip(*sizes)) if sizes else (0, 0)
    return _index(task), [], PackNotes(np.array(digests, np.uint64), rotated, len(sizes), found, packed, broken)


def read_entry(entry: Entry) -> bytes:
    """The image's bytes. Raises Undecodable if its file was changed or replaced after the listing, OSError."""
    if entry.data is not None:
        return entry.data
    if entry.size > MAX_BYTES:
        raise Undecodable(f"{entry.size} bytes, an image file has at most {MAX_BYTES}")
    with Path(entry.file).open("rb") as file:
        status = os.fstat(file.fileno())
        size = status.st_size if entry.offset else entry.size  # of a tar only the time is known, and its own headers
        if entry.stamp and (reason := difference_in(status, size, entry.stamp)):
            raise Undecodable(reason)
        file.seek(entry.offset)
        data = file.read(entry.size)
        whole_file = entry.offset == 0
        if len(data) != entry.size or (whole_file and file.read(1)):
            raise Undecodable("its size has changed since the index was made; run: python -m stages.index")
    return data


def _index(task: _Task) -> ShardRecord:
    """Reads the tar back, compares it with the entries, and writes ``index/<shard>.npz``."""
    content = task.tar.read_bytes()
    members = tars.walk(task.tar)
    images = [member for member in members if not member.name.endswith(".cls")]
    names = [member.name.rsplit(".", 1)[0] for member in images]
    if names != [entry.key for entry in task.entries] or len(members) != 2 * len(images):
        raise IntegrityError(f"{task.tar}: read back, it does not hold what was written; is the disk sound?")
    bounds = [0, *(image.offset + (image.size + 511) // 512 * 512 for image in images)]
    columns: dict[str, list] = {
        "keys": [name.encode("ascii") for name in names],
        "kinds": [image.name.rsplit(".", 1)[1].encode("ascii") for image in images],
        "labels": [entry.label for entry in task.entries],
        "offsets": [image.offset for image in images],
        "sizes": [image.size for image in images],
        "checksums": [google_crc32c.value(content[start:end]) for start, end in itertools.pairwise(bounds)],
    }
    index = _npz({name: np.array(column, INDEX_DTYPES[name]) for name, column in columns.items()})
    files.write_durably(index_path(task.tar.parent, task.tar.name), index)
    files.fsync(task.tar)
    return ShardRecord(
        name=task.tar.name,
        samples=len(images),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of an uncompressed .npz with a fixed date, which numpy.savez does not promise."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()
