"""Every class of damage to a teacher cache: found by verify, and by a reader before it returns a number.

\b
    python -m bench.proofs.damage --cases 100

It runs with a codec of a byte per class, and with one that packs bits. Published caches and caches in a pool take turns. The
reader has found a case if reading the whole cache raises IntegrityError at least once and returns nothing wrong. Then come the
files that one stage writes and another reads, and the compiled kernels (``damage_files``), in twice as many cases.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import google_crc32c
import numpy as np

from bench.proofs import damage_files
from pipeline.cache.codec import packed_width
from pipeline.cache.layout import Layout, Part, file_key, record_key
from pipeline.cache.publish import publish
from pipeline.cache.reader import Cache, open_cache
from pipeline.cache.verify import verify
from pipeline.data.shards import Block
from pipeline.runtime.errors import IntegrityError
from pipeline.views.choose import Targets
from tests.support import fake_teacher as fake

SHAPE = Layout(samples=640, classes=50, shard_size=256, block=64, group=3, codec="u8")
CODECS = ("u8", "top8")
VIEWS = 6
PAGE = 4096


@dataclass
class Result:
    cases: dict[str, int] = field(default_factory=dict)
    clean_reads: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """What a damage may work with: the cache, whether it is published, another teacher's, and another attempt's."""

    shape: Layout
    cache: Path
    published: bool
    other: Path
    attempt: Path
    chance: np.random.Generator

    def part(self) -> Part:
        parts = list(self.shape.parts(VIEWS))
        return parts[self.chance.integers(len(parts))]

    def two_parts(self) -> tuple[Part, Part]:
        parts = list(self.shape.parts(VIEWS))
        a, b = self.chance.choice(len(parts), 2, replace=False)
        return parts[a], parts[b]

    def file(self, folder: Path | None = None, array: str | None = None) -> Path:
        array = array or str(self.chance.choice(self.shape.arrays))
        return (folder or self.cache) / file_key(array, self.part())


def flip(path: Path, chance: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[chance.integers(len(content))] ^= 1 << chance.integers(8)
    path.write_bytes(content)


def bit_flip(scene: Scene) -> None:
    flip(scene.file(), scene.chance)


def truncation(scene: Scene) -> None:
    path = scene.file()
    path.write_bytes(path.read_bytes()[: scene.chance.integers(1, path.stat().st_size)])


def chunk_bytes(shape: Layout) -> int:
    """A block's stored rows and their crc32c."""
    return shape.block * packed_width(shape.codec, shape.classes) + 4


def cut_at_chunk_boundary(scene: Scene) -> None:
    path = scene.file(array="logits")
    chunk = chunk_bytes(scene.shape)
    path.write_bytes(path.read_bytes()[: chunk * scene.chance.integers(1, path.stat().st_size // chunk + 1)])


def forged_rows(scene: Scene) -> None:
    """A flipped bit under a checksum that is right: for topK mostly rows that no teacher can have given."""
    path = scene.file(array="logits")
    content = bytearray(path.read_bytes())
    chunk = chunk_bytes(scene.shape)
    first = int(scene.chance.integers(len(content) // chunk)) * chunk
    content[first + scene.chance.integers(chunk - 4)] ^= 1 << scene.chance.integers(8)
    rows = bytes(content[first : first + chunk - 4])
    content[first + chunk - 4 : first + chunk] = google_crc32c.value(rows).to_bytes(4, "little")
    path.write_bytes(content)


def zero_page(scene: Scene) -> None:
    path = scene.file(array="logits")
    content = bytearray(path.read_bytes())
    first = int(scene.chance.integers(-(-len(content) // PAGE))) * PAGE
    size = min(PAGE, len(content) - first)
    content[first : first + size] = bytes(size)
    path.write_bytes(content)


def zero_byte_file(scene: Scene) -> None:
    scene.file().write_bytes(b"")


def missing_file(scene: Scene) -> None:
    scene.file().unlink()


def directory_in_its_place(scene: Scene) -> None:
    path = scene.file()
    path.unlink()
    path.mkdir()


def dangling_link_in_its_place(scene: Scene) -> None:
    path = scene.file()
    path.unlink()
    path.symlink_to("nowhere")


def endless_file_in_its_place(scene: Scene) -> None:
    path = scene.file()
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe_in_its_place(scene: Scene) -> None:
    names = ["zarr.json", "hard/zarr.json"] if scene.published else ["identity.json"]
    choices = [scene.file(), scene.cache / record_key(scene.part()), scene.cache / str(scene.chance.choice(names))]
    path = choices[scene.chance.integers(3)]
    path.unlink()
    os.mkfifo(path)


def swap(a: Path, b: Path) -> None:
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def swapped_files(scene: Scene) -> None:
    a, b = scene.two_parts()
    array = str(scene.chance.choice(scene.shape.arrays))
    swap(scene.cache / file_key(array, a), scene.cache / file_key(array, b))


def swapped_parts_with_records(scene: Scene) -> None:
    a, b = scene.two_parts()
    for array in scene.shape.arrays:
        swap(scene.cache / file_key(array, a), scene.cache / file_key(array, b))
    swap(scene.cache / record_key(a), scene.cache / record_key(b))


def foreign(scene: Scene, source: Path, record: bool) -> None:
    part = scene.part()
    keys = [file_key(array, part) for array in scene.shape.arrays]
    for key in [*keys, record_key(part)] if record else [str(scene.chance.choice(keys))]:
        shutil.copyfile(source / key, scene.cache / key)


def another_teachers_file(scene: Scene) -> None:
    foreign(scene, scene.other, record=False)


def another_teachers_part(scene: Scene) -> None:
    foreign(scene, scene.other, record=True)


def another_attempts_file(scene: Scene) -> None:
    foreign(scene, scene.attempt, record=False)


def edited_metadata(scene: Scene) -> None:
    if not scene.published:
        flip(scene.cache / "identity.json", scene.chance)
        return
    path = scene.cache / str(scene.chance.choice(["zarr.json", "hard/zarr.json", "logits/zarr.json"]))
    edits = [
        (b'"shape":[6,', b'"shape":[9,'),
        (b'"uint16"', b'"int16"'),
        (b"65535", b"0"),
        (b'"views":6', b'"views":3'),
    ]
    edits += [(b'"uint8"', b'"int8"'), (b'"endian":"little"', b'"endian":"big"'), (b'{"', b'{ "'), (b"640", b"641")]
    content = path.read_bytes()
    old, new = edits[scene.chance.choice([index for index, edit in enumerate(edits) if edit[0] in content])]
    path.write_bytes(content.replace(old, new, 1))


def damaged_metadata(scene: Scene) -> None:
    names = ["zarr.json", "hard/zarr.json", "logits/zarr.json"] if scene.published else ["identity.json"]
    path = scene.cache / str(scene.chance.choice(names))
    flip(path, scene.chance) if scene.chance.random() < 0.5 else path.write_bytes(
        path.read_bytes()[: scene.chance.integers(path.stat().st_size)]
    )


def damaged_record(scene: Scene) -> None:
    path = scene.cache / record_key(scene.part())
    content = path.read_bytes()
    kind = scene.chance.integers(4)
    if kind == 0:
        flip(path, scene.chance)
    elif kind == 1:
        path.write_bytes(content[: scene.chance.integers(len(content))])
    elif kind == 2:  # a digit of a digest, its size or its checksum: still JSON
        digits = [index for index, byte in enumerate(content) if 48 <= byte <= 57]
        index = scene.chance.choice(digits)
        path.write_bytes(content[:index] + bytes([48 + (content[index] - 47) % 10]) + content[index + 1 :])
    else:
        path.unlink()
        path.mkdir()


def missing_record(scene: Scene) -> None:
    path = scene.cache / record_key(scene.part())
    # In a pool a part without a record is one still to be made, which is the truth; so there it is emptied instead.
    path.unlink() if scene.published else path.write_bytes(b"")


DAMAGES: tuple[Callable[[Scene], None], ...] = (
    bit_flip,
    truncation,
    cut_at_chunk_boundary,
    forged_rows,
    zero_page,
    zero_byte_file,
    missing_file,
    directory_in_its_place,
    dangling_link_in_its_place,
    endless_file_in_its_place,
    pipe_in_its_place,
    swapped_files,
    swapped_parts_with_records,
    another_teachers_file,
    another_teachers_part,
    another_attempts_file,
    edited_metadata,
    damaged_metadata,
    damaged_record,
    missing_record,
)


def run(root: Path, cases: int, clean_reads: int, seed: int, codec: str = SHAPE.codec) -> Result:
    """``cases`` of every class of damage, and ``clean_reads`` reads without."""
    chance, shape = np.random.default_rng(seed), replace(SHAPE, codec=codec)
    pool = fake.filled(root / "pool", shape, VIEWS)
    other = fake.filled(root / "other", shape, VIEWS, {"teacher": {"arch": "another"}}, attempt=2)
    again = fake.filled(root / "again", shape, VIEWS, attempt=1)
    out = root / "out"
    publish(pool, out, VIEWS, 10**9)
    truth = {
        (block, first): [fake.expected(shape, block, view) for view in range(first, first + 3)]
        for block in fake.blocks(shape)
        for first in range(0, VIEWS, 3)
    }
    result = Result()
    _read_clean([open_cache(out), open_cache(pool.path)], truth, clean_reads, result)
    for damage in DAMAGES:
        for case in range(cases):
            published = case % 2 == 0
            scene = Scene(shape, out if published else pool.path, published, other.path, again.path, chance)
            clean = snapshot(scene.cache)
            damage(scene)
            if snapshot(scene.cache) != clean:  # a page that was zero already is no damage
                _judge(scene, f"{damage.__name__} {case}", truth, result)
                result.cases[damage.__name__] = result.cases.get(damage.__name__, 0) + 1
            restore(scene.cache, clean)
    return result


def _judge(scene: Scene, name: str, truth: dict[tuple[Block, int], list[Targets]], result: Result) -> None:
    if not verify(scene.cache).damaged:
        result.faults.append(f"{name}: verify found nothing")
    raised = False
    try:
        cache = open_cache(scene.cache)
    except IntegrityError:
        return
    for (block, first), expected in truth.items():
        try:
            found = cache.read(block, first, 3)
        except IntegrityError:
            raised = True
            continue
        if not right(found, expected):
            result.faults.append(f"{name}: wrong numbers for {block}, view {first}")
    if not raised:
        result.faults.append(f"{name}: the reader noticed nothing")


def right(found: Targets, expected: list[Targets]) -> bool:
    logits = [found.logits[index][None] if found.logits is not None else None for index in range(len(expected))]
    return all(fake.same(Targets(found.hard[i][None], logits[i]), expected[i]) for i in range(len(expected)))


def _read_clean(caches: list[Cache], truth: dict[tuple[Block, int], list[Targets]], reads: int, result: Result) -> None:
    keys = list(truth)
    while result.clean_reads < reads:
        block, first = keys[result.clean_reads % len(keys)]
        try:
            if not right(caches[result.clean_reads % len(caches)].read(block, first, 3), truth[block, first]):
                result.faults.append(f"clean read of {block}, view {first}: wrong numbers")
        except IntegrityError as error:
            result.faults.append(f"false alarm: {error}")
        result.clean_reads += 1


def snapshot(cache: Path) -> dict[Path, bytes | None]:
    """Every path with its content; None for a directory or a link that leads nowhere."""
    return {path: path.read_bytes() if path.is_file() else None for path in cache.rglob("*")}


def restore(cache: Path, clean: dict[Path, bytes | None]) -> None:
    for path, content in clean.items():
        if content is None:
            continue
        if path.is_dir():
            path.rmdir()
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.unlink()
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def show(title: str, cases: Mapping[str, int]) -> None:
    print(title)
    for name, count in cases.items():
        print(f"  {name.replace('_', ' '):28} {count:5} cases")


@click.command(help=__doc__)
@click.option("--cases", default=100, show_default=True)
@click.option("--clean-reads", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(cases: int, clean_reads: int, seed: int) -> None:
    before, faults = time.perf_counter(), []
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as root:
            result = run(Path(root), cases, clean_reads, seed, codec)
        show(f"codec {codec}", result.cases)
        print(f"{sum(result.cases.values())} cases, {result.clean_reads} clean reads")
        faults += [f"{codec}: {fault}" for fault in result.faults]
    for title, prove in (
        ("small files", damage_files.small_files),
        ("compiled kernels", damage_files.compiled_kernels),
    ):
        with tempfile.TemporaryDirectory() as root:
            counts, found = prove(Path(root), 2 * cases, seed)
        show(title, counts)
        print(f"{sum(counts.values())} cases")
        faults += [f"{title}: {fault}" for fault in found]
    print(f"missed, wrong or false: {len(faults)}; {time.perf_counter() - before:.0f} s")
    for fault in faults[:50]:
        print(f"  {fault}")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
