"""Existing WebDataset tars as a source. Only jpg, jpeg, png, webp, cls and json members are read, by name.

Nothing is extracted, unpickled or piped, and no tar gives a sample before all of it has been seen whole: a strict walk
of the headers first, then the webdataset library, whose samples must be the same.
"""

import json
import re
import tarfile
from pathlib import Path
from typing import BinaryIO

from pipeline.data.images import SUFFIXES
from pipeline.data.listing import Entry, File, Problems, Split, content_key, list_files, suffix
from pipeline.data.tars import REGULAR, Member, TarDamage, walk
from pipeline.data.wds import group_by_keys, tar_file_expander
from pipeline.runtime.progress import progress

_FIELDS = frozenset({*SUFFIXES, "cls", "json"})
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json


def scan(root: Path, problems: Problems) -> list[File]:
    """The tars of both splits and ``classes.txt`` if there is one.

    A tar belongs to ``train`` or ``val`` by its directory (``train/*.tar``) or else its name (``*train*.tar``);
    ``validation`` is ``val``. Compressed tars are refused: their members can't be read in place.
    """
    paths = sorted([*root.glob("[!.]*"), *root.glob("[!.]*/[!.]*")])
    listed = list_files(root, [path.relative_to(root).as_posix() for path in paths], problems)
    found = {split: [file for file in listed if _split_of(file.path) == split] for split in ("train", "val")}
    for split, tars in found.items():
        if not tars:
            problems.usage(f"no tars for {split}: expected {split}/*.tar or *{split}*.tar")
    for file in listed:
        if file.path.endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")):
            problems.usage(f"{file.path!r}: compressed; unpack it to a plain .tar")
        elif file.path.endswith(".tar") and not _split_of(file.path):
            problems.usage(f"{file.path!r}: neither train nor val in its name")
    return [*(file for file in listed if file.path == "classes.txt"), *found["train"], *found["val"]]


def read(root: Path, listed: list[File], problems: Problems) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes (``classes.txt``, else the numbers 0..C-1) and samples, from the walked headers.

    Every tar must be whole, hold one image and one label per key, and be handed out by the webdataset library in full
    and byte for byte: it loses samples silently where a header, a name or an order is odd.
    """
    splits = {"train": Split([]), "val": Split([])}
    with progress("check tars", len(listed), "files") as tick:
        for file in listed:
            if split := _split_of(file.path):
                splits[split].entries.extend(_read_tar(root, file.path, problems))
            tick()
    largest = max((entry.label for split in splits.values() for entry in split.entries), default=-1)
    classes = tuple(str(label) for label in range(largest + 1))
    if any(file.path == "classes.txt" for file in listed):
        classes = tuple((root / "classes.txt").read_text(encoding="utf-8").split("\n"))
        classes = classes[:-1] if classes and not classes[-1] else classes
        if not 0 <= largest < len(classes):
            problems.usage(f"classes.txt names {len(classes)} classes, but there is a label {largest}")
    return classes, splits


def _split_of(path: str) -> str:
    if not path.endswith(".tar"):
        return ""
    top, name = path.split("/", 1)[0], path.rsplit("/", 1)[-1]
    for text in (top, name):
        words = set(re.split(r"[^a-z]+", text.lower()))
        if "train" in words or "training" in words:
            return "train"
        if words & {"val", "valid", "validation"}:
            return "val"
    return ""


def _read_tar(root: Path, path: str, problems: Problems) -> list[Entry]:
    try:
        members = walk(root / path)
    except (TarDamage, OSError) as error:
        problems.damage(f"{path!r}: {error}; fetch it again")
        return []
    before = problems.count
    samples = _group(path, members, problems)
    if problems.count == before:
        _compare(root / path, path, samples, problems)
    entries = []
    with (root / path).open("rb") as file:
        for key, fields in samples.items():
            label, where = _label(file, fields), f"{path}: {key}"
            if label is None:
                problems.damage(f"{where!r}: no label: expected a whole number of at least 0 in .cls")
                continue
            [image] = (member for field, member in fields.items() if field in SUFFIXES)
            kind = suffix(image.name)
            entries.append(Entry(where, content_key(key), label, kind, image.size, str(root / path), image.offset))
    return entries


def _group(path: str, members: list[Member], problems: Problems) -> dict[str, dict[str, Member]]:
    """Members of the whole samples by key and field (the name from its last part's first dot on, as webdataset splits)."""
    samples: dict[str, dict[str, Member]] = {}
    last = ""
    for member in members:
        where, base = f"{path}: {member.name}", member.name.rsplit("/", 1)[-1]
        if member.kind == tarfile.DIRTYPE:
            continue
        if member.kind not in REGULAR:
            problems.damage(f"{where!r}: a link or device, not a file")
            continue
        stem, dot, field = base.partition(".")
        key, field = member.name[: len(member.name) - len(dot + field)], field.lower()
        if suffix(base) not in _FIELDS:
            continue  # captions, masks and so on: nothing that we read
        if field not in _FIELDS:
            problems.usage(f"{where!r}: a dot inside the key: webdataset would cut the key there")
        elif not stem or member.name.startswith(("/", "__")) or ".." in member.name.split("/"):
            problems.usage(f"{where!r}: not a key (hidden, absolute, leaving its directory, or __special__)")
        elif not member.name.isprintable():
            problems.usage(f"{where!r}: a key with control characters or not in UTF-8")
        elif field in samples.get(key, {}):
            problems.usage(f"{where!r}: twice in one tar")
        elif key in samples and key != last:
            problems.usage(f"{where!r}: its sample is not in one piece; webdataset would hand out two halves")
        elif field in SUFFIXES and member.size == 0:
            problems.damage(f"{where!r}: empty image")
        else:
            samples.setdefault(key, {})[field] = member
            last = key
    whole = {}
    for key, fields in samples.items():
        if len(fields.keys() & SUFFIXES) == 1 and fields.keys() & {"cls", "json"}:
            whole[key] = fields
        else:
            problems.damage(f"{path + ': ' + key!r}: expected one image and a .cls, found {', '.join(fields)}")
    return whole


def _label(file: BinaryIO, fields: dict[str, Member]) -> int | None:
    """The label in .cls, or "label" in .json: digits only (Python would take "1_000" and "-1" as well)."""
    member = fields.get("cls") or fields["json"]
    if member.size > _LARGEST_LABEL:
        return None
    text = _bytes(file, member)
    if "cls" not in fields:
        try:
            text = str(json.loads(text)["label"]).encode()
        except (ValueError, KeyError, TypeError):  # no JSON, no "label", no object
            return None
    return int(text) if re.fullmatch(rb"\d{1,6}", text.strip(b"\n")) else None


def _compare(path: Path, name: str, samples: dict[str, dict[str, Member]], problems: Problems) -> None:
    """Checks that webdataset hands out exactly these samples and bytes, in this order."""
    expected = iter(samples.items())
    handed = 0
    with path.open("rb") as file, path.open("rb") as stream:
        # An open file, so that no name is taken for a URL or a command; known fields only, never decoded.
        members = tar_file_expander([{"url": name, "stream": stream}], select_files=lambda m: suffix(m) in _FIELDS)
        try:
            for sample in group_by_keys(members):
                key, fields = next(expected, ("", {}))
                same = sample["__key__"] == key and {f for f in sample if f[0] != "_"} == fields.keys()
                if not same or any(sample[field] != _bytes(file, member) for field, member in fields.items()):
                    break
                handed += 1
        except Exception as error:  # whatever webdataset or tarfile raise
            problems.damage(f"{name!r}: webdataset can't read it: {type(error).__name__}: {error}")
            return
    if handed != len(samples):
        problems.damage(f"{name!r}: webdataset hands out only the first {handed} of {len(samples)} samples unharmed")


def _bytes(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
