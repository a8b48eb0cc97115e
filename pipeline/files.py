"""Files that are whole or absent: canonical JSON, checksums, durable writes (layer L1)."""

import hashlib
import json
import os
import uuid
from pathlib import Path

import google_crc32c


def canonical_json(value: object) -> bytes:
    """One byte string for one value: sorted keys, no spaces, ASCII, newline at the end; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def digest(value: object) -> str:
    """sha256 in hex of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32c_file(path: Path) -> str:
    """crc32c of a file in 8 hex digits (6 ms per 64 MiB, against 0.4 s for sha256)."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            checksum.update(chunk)
    return checksum.hexdigest().decode("ascii")


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Makes names created, renamed or removed in ``path`` survive a power cut."""
    fsync_file(path)


def write_durably(path: Path, content: bytes) -> None:
    """Writes ``content`` under a temporary name, fsyncs it, renames it to ``path`` and fsyncs the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
