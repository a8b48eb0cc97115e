"""What is true of a cache, as it lies on disk: identity, commit records, receipts (layer L1). Reads only.

A commit record is one JSON file per part: identity, part, size and xxh3_128 of every file, sha256 of the source shard,
and per view and block two xxh3_64: of the uint8 pixels that the teacher saw and of the decoded rows. It carries its own
checksum. A receipt stands for a cache that is too big to publish, and pins its records.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline import files, layout, targets
from pipeline.layout import Layout, Part
from pipeline.runtime import IntegrityError, UsageError

RECORD_FORMAT = "offline-deit part"
RECORD_VERSION = 1
CACHES = "caches"
STAGING = "staging"
RECEIPT = "receipt.json"
RECEIPT_FORMAT = "offline-deit receipt"
RECEIPT_VERSION = 1
ANEW = "dvc repro -s -f precompute (precompute_val for the validation split)"
REPAIR = f"repair: python -m stages.verify --repair on the pool, then {ANEW} or python -m stages.precompute"


@dataclass(frozen=True)
class Receipt:
    """What a receipt says: the cache's identity, V, and the checksum of every record, [g][s]."""

    identity: dict[str, Any]
    views: int
    records: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Record:
    """What is true of one part. ``pixels`` and ``rows``: per view, 16 hex digits for each block."""

    identity: str
    part: Part
    samples: int
    files: dict[str, tuple[int, str]]  # array -> (bytes, xxh3_128)
    source: str
    pixels: tuple[str, ...]
    rows: tuple[str, ...]
    checksum: str

    def pixel_digest(self, view: int, block: int) -> str:
        """xxh3_64 of the uint8 pixels of a view (counted in the part) of a block (in the shard)."""
        return self.pixels[view][16 * block : 16 * block + 16]

    def row_digest(self, view: int, block: int) -> str:
        return self.rows[view][16 * block : 16 * block + 16]


def checksum_file(path: Path) -> str:
    """xxh3_128 of a file in 32 hex digits.

    Not crc32c: zarr ends every chunk with its crc32c, and the crc32c of data that ends with its own is the same number
    for all data, so that a chunk exchanged for another valid one would not show.
    """
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            state.update(chunk)
    return state.hexdigest()


def check_size(path: Path, size: int) -> None:
    """Raises IntegrityError unless ``path`` is a file of ``size`` bytes."""
    try:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
    except (FileNotFoundError, NotADirectoryError):
        found = "no file"
    if found != f"{size} bytes":
        raise IntegrityError(f"{path}: expected {size} bytes, found {found}; {REPAIR}")


def row_digest(identity: str, part: Part, view: int, block: int, hard: np.ndarray, logits: np.ndarray | None) -> str:
    """xxh3_64 of a view (counted in the part) of a block: hard uint16 (n,), decoded logits float32 (n, C).

    The key (identity, part, view, block) makes equal rows at another place another digest.
    """
    state = xxhash.xxh3_64(f"{identity} {part[0]} {part[1]} {view} {block} {len(hard)}\n".encode("ascii"))
    state.update(np.ascontiguousarray(hard, "<u2").data)
    if logits is not None:
        state.update(np.ascontiguousarray(logits, "<f4").data)
    return state.hexdigest()


def record_bytes(
    identity: str,
    part: Part,
    samples: int,
    sums: Mapping[str, tuple[int, str]],
    source: str,
    pixels: Sequence[str],
    rows: Sequence[str],
) -> bytes:
    """A commit record with its own checksum, so that a damaged record is never taken for another truth."""
    body = {
        "format": RECORD_FORMAT,
        "version": RECORD_VERSION,
        "identity": identity,
        "part": list(part),
        "samples": samples,
        "files": {name: {"bytes": size, "xxh3": checksum} for name, (size, checksum) in sums.items()},
        "source": source,
        "pixels": list(pixels),
        "rows": list(rows),
    }
    return files.canonical_json(body | {"checksum": _checksum(body)})


def _checksum(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(files.canonical_json(body)).hexdigest()


def parse_record(content: bytes, where: str, identity: str, shape: Layout, part: Part) -> Record:
    """A record that is whole and is of this identity and part. Raises IntegrityError with what differs."""
    try:
        body = json.loads(content)
        checksum = body.pop("checksum")
        if _checksum(body) != checksum or files.canonical_json(body | {"checksum": checksum}) != content:
            raise ValueError("its checksum does not match its content")
        sums = {str(name): (int(entry["bytes"]), str(entry["xxh3"])) for name, entry in body["files"].items()}
        record = Record(
            body["identity"],
            (body["part"][0], body["part"][1]),
            body["samples"],
            sums,
            body["source"],
            tuple(body["pixels"]),
            tuple(body["rows"]),
            checksum,
        )
        lengths = [len(text) for text in record.pixels + record.rows]
        kind = [body["format"], body["version"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise IntegrityError(f"{where}: damaged commit record: {error}; {REPAIR}") from None
    for field, expected, found in (
        ("format and version", [RECORD_FORMAT, RECORD_VERSION], kind),
        ("identity", identity, record.identity),
        ("part", part, record.part),
        ("samples", shape.rows(part[1]), record.samples),
        ("files", sorted(shape.arrays), sorted(record.files)),
        ("digests", [16 * shape.blocks(part[1])] * (2 * shape.group), lengths),
    ):
        if expected != found:
            difference = f"{field}: expected {expected}, found {found}"
            raise IntegrityError(f"{where}: record of another part: {difference}; {REPAIR}")
    return record


def read_record(cache: Path, identity: str, shape: Layout, part: Part) -> Record | None:
    """The record of a part, None if there is none. Raises IntegrityError."""
    path = cache / layout.record_key(part)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError):
        raise IntegrityError(f"{path}: expected a commit record, found a directory; {REPAIR}") from None
    return parse_record(content, str(path), identity, shape, part)


def row_digests(identity: str, shape: Layout, part: Part, hard: np.ndarray, stored: np.ndarray | None) -> list[str]:
    """Per view the digests of all blocks; decodes one block at a time, so that memory stays at one part."""
    digests = []
    for view in range(shape.group):
        line = []
        for block in range(shape.blocks(part[1])):
            rows = slice(block * shape.block, block * shape.block + shape.block_rows(part[1], block))
            logits = None if stored is None else targets.decode(shape.codec, stored[view, rows])
            line.append(row_digest(identity, part, view, block, hard[view, rows], logits))
        digests.append("".join(line))
    return digests


def cache_path(root: Path, identity_hash: str) -> Path:
    return root / CACHES / identity_hash[:12]


def caches(root: Path) -> list[Path]:
    """The directories of all caches in a pool."""
    folder = root / CACHES
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_identity(cache: Path) -> dict[str, Any]:
    """The identity of a cache in a pool. Raises UsageError (there is none), IntegrityError (damaged)."""
    path = cache / "identity.json"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{cache}: no teacher cache (no identity.json)") from None
    try:
        identity = json.loads(content)
        whole = files.canonical_json(identity) == content and files.digest(identity)[:12] == cache.name
    except (ValueError, TypeError):
        whole = False
    if not whole or not isinstance(identity, dict):
        raise IntegrityError(
            f"{path}: damaged: its hash is not the directory's name {cache.name}; "
            f"remove this one file and run precompute, which writes it again"
        )
    return identity


def read_receipt(path: Path) -> Receipt:
    """The receipt in a published directory. Raises IntegrityError if it is damaged."""
    try:
        body = json.loads((path / RECEIPT).read_bytes())
        checksum = body.pop("sha256")
        if files.digest(body) != checksum:
            raise ValueError("its checksum does not match its content")
        if [body["format"], body["version"]] != [RECEIPT_FORMAT, RECEIPT_VERSION]:
            raise ValueError(f"unknown format {body['format']!r} version {body['version']!r}")
        return Receipt(body["identity"], body["views"], tuple(tuple(row) for row in body["records"]))
    except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError) as error:
        raise IntegrityError(f"{path / RECEIPT}: damaged receipt: {error}; run precompute again") from None


def listed(cache: Path, shape: Layout) -> set[Part]:
    """The parts of a cache directory that have a record and all their files, by listing names only."""
    parts = set(_numbered(cache / "commits", ".json")) & set(_numbered(cache / "hard" / "c", ""))
    if "logits" in shape.arrays and (cache / "logits").is_dir():
        pieces = [name.split(".") for name in os.listdir(cache / "logits")]  # noqa: PTH208 (as below)
        logits = {
            (int(piece[1]), int(piece[2])) for piece in pieces if len(piece) == 4 and "".join(piece[1:]).isdigit()
        }
        return parts & logits
    return parts if shape.arrays == ("hard",) else set()


def recorded(cache: Path) -> set[Part]:
    """The parts that have a record, whether or not their files are in place."""
    return set(_numbered(cache / "commits", ".json"))


def staging_directories(cache: Path) -> Iterator[tuple[Path, Part]]:
    """Every attempt's directory with its part."""
    try:
        names = sorted(path.name for path in (cache / STAGING).iterdir())
    except FileNotFoundError:
        return
    for name in names:
        pieces = name.split(".")
        if len(pieces) == 3 and pieces[0].isdigit() and pieces[1].isdigit():
            yield cache / STAGING / name, (int(pieces[0]), int(pieces[1]))


def _numbered(folder: Path, suffix: str) -> Iterator[Part]:
    """The (g, s) of the entries ``<g>/<s><suffix>`` below a folder; other names are not ours."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as groups:
        for group in groups:
            if not group.name.isdigit():
                continue
            try:
                names = os.listdir(group.path)  # noqa: PTH208 (6,260 names: no need for Path objects)
            except NotADirectoryError:
                continue
            for name in names:
                if name.endswith(suffix) and (shard := name.removesuffix(suffix)).isdigit():
                    yield int(group.name), int(shard)
