"""What a source holds: its files, its samples before packing, and all problems at once."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.images import PACKED_SUFFIXES, SUFFIXES, UNREAD_SUFFIXES
from pipeline.runtime.errors import IntegrityError, UsageError
from pipeline.runtime.progress import say
from pipeline.runtime.text import few, few_names

_CLUTTER = ("__MACOSX", "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "lost+found")
_SHOWN = 1000  # problems printed; a wrong root of ImageNet's size would fill the disk with its log
_KEY_LIMIT = 90  # with its suffix a key must fit the 100 bytes that every tar reader knows
_IMAGES = frozenset((*SUFFIXES, *PACKED_SUFFIXES, *UNREAD_SUFFIXES))
_UNSAFE = re.compile(rb"[^A-Za-z0-9_/-]")


@dataclass(frozen=True, slots=True)
class File:
    """A line of ``index.tsv``: a file of the source as it was when ``index`` ran."""

    path: str  # relative to the root, with /
    size: int  # bytes
    stamp: str  # modification time in ns, or a content hash for a built-in source

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample to be packed: where its bytes are, its key and its label."""

    path: str  # for messages: a relative path, or archive and member
    key: str
    label: int
    kind: str  # jpg, png or webp: the member's suffix, whatever the content is
    size: int  # bytes
    file: str = ""  # the file that holds the bytes, if ``data`` is None
    offset: int = 0
    data: bytes | None = None
    stamp: str = ""  # modification time in ns of ``file`` in the listing; "" where it is not to be compared


@dataclass(frozen=True)
class Split:
    """The samples of ``train`` or ``val`` in natural order, and the files that can't be samples, each with the reason."""

    entries: list[Entry]
    quarantined: list[tuple[str, str]] = field(default_factory=list)


class Problems:
    """Collects all problems of one scan, so that one run shows them all."""

    def __init__(self) -> None:
        self._usage: list[str] = []
        self._damage: list[str] = []
        self._warnings: list[str] = []
        self._aside: list[str] = []

    def usage(self, text: str) -> None:
        """A mistake of the user (exit 2)."""
        self._usage.append(text)

    def damage(self, text: str) -> None:
        """A file that is broken or can't be read (exit 3)."""
        self._damage.append(text)

    def warn(self, text: str) -> None:
        """A warning, which stops nothing."""
        self._warnings.append(text)

    def aside(self, path: str) -> None:
        """A file among the images whose name is not an image's, or a hidden directory."""
        self._aside.append(path)

    @property
    def count(self) -> int:
        return len(self._usage) + len(self._damage)

    def check(self, where: object) -> None:
        """Prints the warnings, once. Raises UsageError, or IntegrityError if anything is damaged, with one problem a line."""
        for text in self._warnings:
            say(f"warning: {text}")
        if self._aside:
            count = f"{len(self._aside)} file{'s' if len(self._aside) > 1 else ''}"
            say(f"{where}: {count} left aside, not named as images: {few_names(self._aside, 20)}")
        self._warnings, self._aside = [], []
        texts = [*self._damage, *self._usage]  # damage first: it may be the cause of the rest
        if not texts:
            return
        lines = few([f"  - {text}" for text in texts], _SHOWN, "\n")
        kind = IntegrityError if self._damage else UsageError
        raise kind(f"{where}: {len(texts)} problem{'s' if len(texts) > 1 else ''}:\n{lines}")


def content_key(stem: str) -> str:
    """The key of a file from its relative path without extension: a content id, never a list position.

    Only letters, digits, ``_ - /`` stay; every other byte becomes %XX (WebDataset cuts keys at a dot). A leading ``__``
    is escaped as well (WebDataset drops such members). Long keys end in a hash. Different stems give different keys.
    """
    raw = os.fsencode(stem)
    key = _UNSAFE.sub(lambda found: f"%{found[0][0]:02X}".encode(), raw).decode("ascii")
    if key.startswith("__"):
        key = "%5F" + key[1:]
    if len(key) > _KEY_LIMIT:
        key = f"{key[:60]}~{hashlib.blake2b(raw, digest_size=12).hexdigest()}"
    return key


def keyed_rank(key: str, seed: int, person: bytes = b"") -> bytes:
    """The rank of a sample in an order that depends on its key and ``seed`` alone; ``person`` gives an independent order."""
    salt = seed.to_bytes(16, "little")
    return hashlib.blake2b(key.encode("ascii"), digest_size=16, salt=salt, person=person).digest()


def suffix(name: str) -> str:
    """The lower-case last suffix without its dot, jpeg as jpg; "" where there is none."""
    stem, _, last = name[name.rfind("/") + 1 :].rpartition(".")
    last = last.lower() if stem else ""
    return "jpg" if last in ("jpeg", "jpe", "jfif") else last


def named_as_image(name: str) -> bool:
    """Whether a file's name says that it is an image, of whatever format. ``._1.jpg`` is macOS's note about an image."""
    return suffix(name) in _IMAGES and not name.startswith(".")


def quarantine_reason(file: File) -> str | None:
    """Why an image can't be a sample by its name or size alone, or None."""
    if suffix(file.name) in UNREAD_SUFFIXES:
        kinds = ", ".join(f".{kind}" for kind in (*SUFFIXES, *PACKED_SUFFIXES))
        return f"a format that is not read; convert it to one of {kinds}"
    if file.size == 0:
        return "empty file"
    return None


def changed(root: Path, file: File) -> str | None:
    """How a file differs from the listing in size or modification time, or None."""
    try:
        status = (root / file.path).stat()
    except OSError as error:
        return f"can't be read: {error.strerror}"
    return difference_in(status, file.size, file.stamp)


def difference_in(status: os.stat_result, size: int, stamp: str) -> str | None:
    """As ``changed``, for a file whose status is known."""
    again = "since the index was made; run: python -m stages.index"
    if status.st_size != size:
        return f"its size has changed from {size} to {status.st_size} bytes {again}"
    if str(status.st_mtime_ns) != stamp:
        return f"it was written again {again}"
    return None


def is_clutter(name: str) -> bool:
    """Whether a directory is hidden, or one that systems make beside a user's, and so no class."""
    return name.startswith(".") or name in _CLUTTER


def list_files(root: Path, paths: Iterable[str], problems: Problems) -> list[File]:
    """The files ``paths``, relative to ``root``, as they are now; directories are passed over, unreadable files reported."""
    listed = []
    for path in paths:
        try:
            status = (root / path).stat()
            if stat.S_ISREG(status.st_mode):
                (root / path).open("rb").close()
                listed.append(File(path, status.st_size, str(status.st_mtime_ns)))
        except OSError as error:
            problems.damage(f"{path!r}: can't be read: {error.strerror}")
    return listed


def walk(root: Path, below: str, problems: Problems) -> Iterator[File]:
    """Every image under ``root/below`` ("" is the root itself), sorted by path; links are followed.

    Reports directories that are found twice (loops) or are unreadable, unreadable files, dangling links, fifos and odd names;
    leaves hidden and the systems' own directories aside, and files whose names are not an image's.
    """
    visited: dict[tuple[int, int], str] = {}

    def visit(relative: str) -> Iterator[File]:
        try:
            status = (root / relative).stat()
            with os.scandir(root / relative) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            problems.damage(f"{relative or '.'!r}: unreadable directory: {error.strerror}")
            return
        # A directory that is visited twice would give its images twice.
        first = visited.setdefault((status.st_dev, status.st_ino), relative or ".")
        if first != (relative or "."):
            problems.usage(f"{relative!r}: the same directory as {first!r} (a link, perhaps a loop); remove the link")
            return
        for entry in entries:
            name = entry.name
            path = f"{relative}/{name}" if relative else name
            # Names that a text file of one name a line can't hold.
            plain = name.isascii() and name.isprintable()
            odd = not plain and any(ord(c) < 32 or ord(c) == 127 or "\ud800" <= c <= "\udfff" for c in name)
            if odd and not named_as_image(name) and entry.is_file():
                problems.aside(path)  # such as macOS's "Icon\r"
                continue
            if odd:
                problems.usage(f"{path!r}: a name with control characters or not in UTF-8; rename it")
                continue
            # A directory, an image, or something else.
            try:
                status = entry.stat()
            except OSError as error:
                problems.damage(f"{path!r}: can't be opened: {error.strerror} (a dangling or looping link?)")
                continue
            folder, regular = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
            if folder and is_clutter(name):
                problems.aside(f"{path}/")
            elif folder:
                yield from visit(path)
            elif regular and not named_as_image(name):
                problems.aside(path)
            elif not regular:
                problems.usage(f"{path!r}: not a regular file (a fifo, socket or device); remove it")
            elif not status.st_mode & stat.S_IROTH and not os.access(entry, os.R_OK):
                problems.damage(f"{path!r}: unreadable file: permission denied")
            else:
                yield File(path, status.st_size, str(status.st_mtime_ns))

    yield from visit(below)
