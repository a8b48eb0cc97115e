"""Existing WebDataset tars as a source. Only images, cls and json members are read, by name.

Nothing is extracted, unpickled or piped. Before a tar gives a sample, all its headers are walked strictly, and then the
webdataset library must return the same samples.
"""

import codecs
import re
import tarfile
from pathlib import Path
from typing import BinaryIO

from pipeline.base.files import parse_json
from pipeline.data.images import MAX_BYTES, PACKED_SUFFIXES, SUFFIXES
from pipeline.data.label_lists import difference_of, lookalikes, read_class_names
from pipeline.data.listing import Entry, File, Problems, Split, changed, content_key, list_files, suffix
from pipeline.data.tars import REGULAR, Member, TarDamage, group_by_keys, tar_file_expander, walk
from pipeline.runtime.progress import progress
from pipeline.runtime.text import clipped

_IMAGES = (*SUFFIXES, *PACKED_SUFFIXES)  # in the order of choice: a kind that is kept byte for byte goes before others
_FIELDS = frozenset({*_IMAGES, "cls", "json"})
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json


def scan(root: Path, problems: Problems, share: bool) -> list[File]:
    """The tars of both splits and ``classes.txt`` if there is one. ``share``: there are none for val.

    A tar belongs to ``train`` or ``val`` by its directory (``train/*.tar``) or else its name (``*train*.tar``);
    ``validation`` is ``val``. Compressed tars are refused: their members can't be read in place.
    """
    paths = sorted([*root.glob("[!.]*"), *root.glob("[!.]*/[!.]*")])
    listed = list_files(root, [path.relative_to(root).as_posix() for path in paths], problems)
    found = {split: [file for file in listed if _split_of(file.path) == split] for split in ("train", "val")}
    for split, tars in found.items():
        if share and split == "val" and tars:
            problems.usage(f"{tars[0].path!r} is for val and data.val_share is set as well; remove one of the two")
        elif not tars and not (share and split == "val"):
            hint = "; or set data.val_share to hold out a share of the training images" if split == "val" else ""
            problems.usage(f"no tars for {split}: expected {split}/*.tar or *{split}*.tar{hint}")
    for file in listed:
        if file.path.endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")):
            problems.usage(f"{file.path!r}: compressed; unpack it to a plain .tar")
        elif file.path.endswith(".tar") and not _split_of(file.path):
            problems.usage(f"{file.path!r}: neither train nor val in its name")
    return [*(file for file in listed if file.path == "classes.txt"), *found["train"], *found["val"]]


def read(root: Path, listed: list[File], problems: Problems) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Classes (``classes.txt``, else the numbers 0..C-1) and samples, from the walked headers.

    Every tar must be whole, hold one image and one label per key, and come out of the webdataset library complete and byte
    for byte: the library silently loses samples where a header, a name or an order is odd.
    """
    splits = {"train": Split([]), "val": Split([])}
    with progress("check tars", len(listed), "files") as tick:
        for file in listed:
            if split := _split_of(file.path):
                splits[split].entries.extend(_read_tar(root, file, problems))
            tick()
    largest = max((entry.label for split in splits.values() for entry in split.entries), default=-1)
    classes = tuple(str(label) for label in range(largest + 1))
    for file in listed:
        if file.path == "classes.txt" and (names := read_class_names(root, file, problems)) is not None:
            classes = names
            if largest >= len(names):
                entries = [entry for split in splits.values() for entry in split.entries if entry.label == largest]
                what = f"but {entries[0].path!r} has label {largest}; labels count from 0"
                problems.usage(f"'classes.txt' names {len(names)} classes, {what}")
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


def _read_tar(root: Path, listed: File, problems: Problems) -> list[Entry]:
    path = listed.path
    if reason := changed(root, listed):
        problems.damage(f"{path!r}: {reason}")
        return []
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
            if isinstance(label, str):
                problems.damage(f"{where!r}: no label: expected a whole number from 0 to 999999, found {label}")
                continue
            [image] = (member for field, member in fields.items() if field in _IMAGES)
            place = str(root / path), image.offset
            entry = Entry(where, content_key(key), label, suffix(image.name), image.size, *place, stamp=listed.stamp)
            entries.append(entry)
    return entries


def _group(path: str, members: list[Member], problems: Problems) -> dict[str, dict[str, Member]]:
    """Members of the whole samples by key and field. The field is all behind the first dot of a file's name, as webdataset
    has it."""
    samples: dict[str, dict[str, Member]] = {}
    dotted: dict[str, dict[str, list[Member]]] = {}  # by key and what stands between it and the last suffix
    last = ""
    for member in members:
        # No file of a sample.
        where, base = f"{path}: {member.name}", member.name.rsplit("/", 1)[-1]
        if member.kind == tarfile.DIRTYPE:
            continue
        if member.kind not in REGULAR:
            problems.damage(f"{where!r}: a link or device, not a file")
            continue
        if base.startswith(".") and suffix(base) in (*_FIELDS, ""):
            problems.aside(where)  # "._x.jpg" and ".DS_Store", which macOS puts into tars and webdataset skips
            continue
        stem, dot, field = base.partition(".")
        key, field = member.name[: len(member.name) - len(dot + field)], field.lower()
        if suffix(base) not in _FIELDS and field not in _FIELDS:
            continue  # captions, masks and so on: nothing that we read
        # A file of a sample that can't be one.
        if not stem or member.name.startswith(("/", "__")) or ".." in member.name.split("/"):
            problems.usage(f"{where!r}: not a key (hidden, absolute, leaving its directory, or __special__)")
        elif not member.name.isprintable():
            problems.usage(f"{where!r}: a key with control characters or not in UTF-8")
        elif field not in _FIELDS:
            dotted.setdefault(key, {}).setdefault(field.rpartition(".")[0], []).append(member)
        elif field in samples.get(key, {}):
            problems.usage(f"{where!r}: twice in one tar")
        elif key in samples and key != last:
            problems.usage(f"{where!r}: its sample is not in one piece; webdataset would hand out two halves")
        elif member.size > (largest := MAX_BYTES if field in _IMAGES else _LARGEST_LABEL) and field != "json":
            problems.damage(f"{where!r}: {member.size} bytes, a .{field} has at most {largest}; remove or replace it")
        elif field in _IMAGES and member.size == 0:
            problems.damage(f"{where!r}: empty image")
        else:
            samples.setdefault(key, {})[field] = member
            last = key
    _check_dotted(path, samples, dotted, problems)
    whole = {}
    for key, fields in samples.items():
        chosen = _chosen(fields)
        if "json" in chosen and chosen["json"].size > _LARGEST_LABEL:
            problems.damage(f"{path + ': ' + key!r}: no label: its .json has {chosen['json'].size} bytes; write a .cls")
        if len(chosen.keys() & set(_IMAGES)) == 1 and fields.keys() & {"cls", "json"}:
            whole[key] = chosen
    # Samples without an image or a label, perhaps because the other has a name that only looks the same.
    halves = {key: fields for key, fields in samples.items() if key not in whole}
    alike = lookalikes(halves)
    for key, fields in halves.items():
        likely = difference_of(key, alike)
        hint = f"; {likely}" if likely else ""
        problems.damage(f"{path + ': ' + key!r}: expected one image and a .cls, found {', '.join(fields)}{hint}")
    return whole


def _chosen(fields: dict[str, Member]) -> dict[str, Member]:
    """The fields of a sample that are read: of a .json with a .cls beside it the .cls; of a .jpg with a .tif beside it the
    .jpg, which is kept byte for byte."""
    if "cls" in fields:
        fields = {field: member for field, member in fields.items() if field != "json"}
    if not fields.keys() & set(SUFFIXES):
        return fields
    return {field: member for field, member in fields.items() if field not in PACKED_SUFFIXES}


def _check_dotted(
    path: str, samples: dict[str, dict[str, Member]], dotted: dict[str, dict[str, list[Member]]], problems: Problems
) -> None:
    """Reports keys with a dot, where webdataset would cut them: ``x.v1.png`` with a label of its own, or without an ``x.jpg``.
    (``x.seg.png`` beside ``x.jpg`` is another field of sample x, which is not read.)"""
    for key, groups in dotted.items():
        beside = samples.get(key, {}).keys()
        for members in groups.values():
            kinds = {suffix(member.name) for member in members}
            sample_of_its_own = kinds & set(_IMAGES) and kinds & {"cls", "json"}
            if sample_of_its_own or not beside & set(_IMAGES):
                for member in members:
                    where = f"{path}: {member.name}"
                    problems.usage(f"{where!r}: a dot inside the key: webdataset would cut the key there")


def _label(file: BinaryIO, fields: dict[str, Member]) -> int | str:
    """The label in .cls, or "label" in .json: digits only (Python would take "1_000" and "-1" as well), perhaps with white
    space and a byte order mark around them. For anything else, a text that says what was found."""
    member = fields.get("cls") or fields["json"]
    if member.size > _LARGEST_LABEL:
        return f"{member.size} bytes"
    text = _bytes(file, member).removeprefix(codecs.BOM_UTF8)
    if "cls" not in fields:
        try:
            text = str(parse_json(text)["label"]).encode()
        except (ValueError, KeyError, TypeError) as error:  # no JSON, no "label", no object
            return f"in .json {type(error).__name__}: {clipped(str(error), 80)}"
    return int(text) if re.fullmatch(rb"[0-9]{1,6}", text.strip(b" \t\r\n")) else clipped(repr(text), 80)


def _compare(path: Path, name: str, samples: dict[str, dict[str, Member]], problems: Problems) -> None:
    """Checks that webdataset returns exactly these samples and bytes, in this order."""
    expected = iter(samples.items())
    known = {member.name for fields in samples.values() for member in fields.values()}
    handed = 0
    with path.open("rb") as file, path.open("rb") as stream:
        # An open file, so that no name is taken for a URL or a command; known fields only, never decoded.
        members = tar_file_expander([{"url": name, "stream": stream}], select_files=lambda m: m in known)
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
