"""What the sources give, and every bad input: its exit code, its sentence, and all problems in one message."""

import multiprocessing
import os
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError

from pipeline.data.images import decode
from pipeline.data.listing import File, content_key, read_listing, write_listing
from pipeline.data.pack import read_entry
from pipeline.data.sources import DataConfig, find_root, read_splits, scan
from pipeline.runtime.config import read_yaml, validate
from pipeline.runtime.errors import IntegrityError, PipelineError, UsageError
from stages import index
from tests.support.photos import PICTURES, make_photo_folder

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
FOLDER = DataConfig(source="folder", shard_size=4, block=2)
IMAGENET = DataConfig(source="imagenet", shard_size=4, block=2)
DIGITS = DataConfig(source="digits")


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path, "JPEG")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            picture(tmp_path / split / name / "1.jpg")
            picture(tmp_path / split / name / "2.JPEG")
    return tmp_path


def problems(config: DataConfig, root: Path) -> tuple[int, str]:
    with pytest.raises(PipelineError) as caught:
        read_splits(config, root, scan(config, root))
    return caught.value.exit_code, str(caught.value)


def test_the_digits_are_split_in_proportion_and_always_alike() -> None:
    listed = scan(DIGITS, Path())
    assert listed[0].stamp == "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
    classes, splits = read_splits(DIGITS, Path(), listed)
    train, val = splits["train"].entries, splits["val"].entries
    assert (len(train), len(val), classes) == (1437, 360, tuple("0123456789"))
    assert not {entry.key for entry in train} & {entry.key for entry in val}
    counts = np.bincount([entry.label for entry in val])
    assert counts.tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]  # largest remainders
    assert [entry.key for entry in val[:3]] == ["0/0000", "9/0009", "3/0013"]


def test_photographs_of_every_kind_come_with_sorted_classes_and_content_keys(tmp_path: Path) -> None:
    make_photo_folder(tmp_path, 7)
    config = DataConfig(source="folder", classes=5)
    classes, splits = read_splits(config, tmp_path, scan(config, tmp_path))
    assert classes == tuple(sorted(PICTURES))
    assert len(splits["train"].entries) == 35 and len(splits["val"].entries) == 10
    entry = splits["train"].entries[8]
    assert (entry.key, classes[entry.label], entry.kind) == ("cat/cat_001", "cat", "jpg")
    assert read_entry(entry) == (tmp_path / "train" / "cat" / "cat_001.JPEG").read_bytes()
    assert {entry.kind for entry in splits["train"].entries} == {"jpg", "png", "webp"}


def test_a_listing_is_read_back_as_written_and_belongs_to_its_source(tmp_path: Path) -> None:
    path = tmp_path / "index.tsv"
    listed = [File("train/a b/ü.jpg", 7, "123"), File("val/x.jpg", 8, "9")]
    write_listing(path, "folder", listed)
    assert read_listing(path, "folder") == listed
    with pytest.raises(UsageError, match="expected the line"):
        read_listing(path, "imagenet")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="cut off"):
        read_listing(path, "folder")
    with pytest.raises(UsageError, match=r"python -m stages\.index"):
        read_listing(tmp_path / "none.tsv", "folder")


def test_keys_are_ids_that_webdataset_keeps_whole() -> None:
    stems = ["a/b", "a.b/c", "a%2Eb/c", "a b", "a_b", "__x__/a", "_x", "ü", "x" * 95, "x" * 96, "img.v1", "img.v2"]
    keys = [content_key(stem) for stem in stems]
    assert len(set(keys)) == len(stems)
    assert all("." not in key and len(key) <= 90 and key.isascii() and not key.startswith("__") for key in keys)
    assert content_key("n01440764/n01440764_10026") == "n01440764/n01440764_10026"


def test_a_missing_or_empty_root_or_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="IMAGENET_ROOT is not set"):
        find_root("imagenet", {"DATA_ROOT": "/x"})
    assert find_root("folder", {"DATA_ROOT": "/x"}) == Path("/x")
    hint = "; set DATA_ROOT (data=imagenet: IMAGENET_ROOT) to where the images are"
    assert problems(FOLDER, tmp_path / "none")[1].endswith(f"the data root is missing{hint}")
    assert problems(FOLDER, tmp_path) == (2, f"{tmp_path}: the data root is empty{hint}")
    assert problems(FOLDER, picture(tmp_path / "a.jpg"))[1].endswith(f"Not a directory{hint}")


def test_all_problems_of_a_tree_are_listed_at_once(folder: Path) -> None:
    train = folder / "train"
    picture(train / ".hidden" / "1.jpg")
    picture(train / "_cache" / "1.jpg")
    (train / "empty").mkdir()
    (folder / "val" / "empty").mkdir()
    picture(folder / "val" / "stranger" / "1.jpg")
    (train / "ant" / "loop").symlink_to(train)
    (train / "twin").symlink_to(train / "bee")
    (train / "bee" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (train / "bee" / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(train / "bee" / "pipe.jpg")
    (train / "bee" / "notes.txt").write_text("x")
    (train / "bee" / ".DS_Store").write_text("x")
    (train / "bee" / "new.heic").write_text("x")
    (train / "bee" / "zero.jpg").touch()
    picture(train / "loose.jpg")
    picture(train / "bee" / "line\nbreak.jpg")
    (Path(os.fsdecode(os.fsencode(train) + b"/bee/\xff.jpg"))).write_bytes(b"x")
    code, text = problems(FOLDER, folder)
    assert code == 3
    for piece in (
        "'train/.hidden': a hidden or system directory",
        "'train/_cache': a hidden or system directory",
        "'train/empty': class without images",
        "'val/stranger': there is no class 'stranger' in train/",
        "'train/ant/loop': the same directory as 'train'",
        "'train/twin': the same directory as 'train/bee'",
        "'train/bee/gone.jpg': can't be opened",
        "'train/bee/self.jpg': can't be opened",
        "'train/bee/pipe.jpg': not a regular file",
        "'train/bee/new.heic': a format that is not read; convert it to one of .jpg,",
        "'train/bee/zero.jpg': empty file",
        "'train/loose.jpg': an image outside any class directory",
        "'train/bee/line\\nbreak.jpg': a name with control characters",
        "'train/bee/\\udcff.jpg': a name with control characters or not in UTF-8",
        "2 unusable files, data.max_quarantined is 0",
    ):
        assert piece in text, piece
    text.encode("utf-8")
    assert "notes.txt" not in text and ".DS_Store" not in text


def test_unreadable_files_and_directories_are_named(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        shutil.copytree(folder, root / "data")
        (root / "data").chmod(0o755)
        (root / "data" / "train" / "ant" / "1.jpg").chmod(0)
        (root / "data" / "val" / "bee").chmod(0)
        # root reads everything, so a root who runs the tests does it as nobody
        as_nobody = {"initializer": os.setuid, "initargs": (65534,)} if os.getuid() == 0 else {}
        with multiprocessing.get_context("fork").Pool(1, **as_nobody) as pool:
            code, text = pool.apply(problems, (FOLDER, root / "data"))
        (root / "data" / "val" / "bee").chmod(0o755)
    assert code == 3
    assert "'train/ant/1.jpg': unreadable file" in text and "'val/bee': unreadable directory" in text


def test_a_missing_split_is_named(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    missing = "val/ is missing: expected val/<class>/<image>; or set data.val_share to hold out a share of all images"
    assert problems(FOLDER, folder) == (2, f"{folder}: 1 problem:\n  - {missing}")


def test_allowed_unusable_files_are_kept_apart_with_their_reason(folder: Path) -> None:
    (folder / "train" / "bee" / "empty.jpg").touch()
    config = FOLDER.model_copy(update={"max_quarantined": 1})
    _, splits = read_splits(config, folder, scan(config, folder))
    assert [path for path, _ in splits["train"].quarantined] == ["train/bee/empty.jpg"]


def test_wrong_counts_are_refused_with_both_numbers(folder: Path) -> None:
    config = DataConfig.model_validate(
        {"source": "folder", "classes": 3, "expected": {"train": 4, "val": 5}, "shard_size": 4, "block": 2}
    )
    code, text = problems(config, folder)
    assert code == 2
    assert "data.classes is 3, but the source has 2" in text
    assert "data.expected.val is 5, but the source has 4" in text and "expected.train" not in text


def test_two_images_that_differ_in_their_suffix_alone_are_two_samples(folder: Path) -> None:
    for name in ("1.png", "1.jpeg", "1.jpg.jpg"):
        picture(folder / "train" / "ant" / name)
    _, splits = read_splits(FOLDER, folder, scan(FOLDER, folder))
    keys = {entry.path: entry.key for entry in splits["train"].entries}
    assert keys["train/ant/1.jpg"] == "ant/1~jpg" and keys["train/ant/1.png"] == "ant/1~png"
    assert keys["train/ant/1.jpeg"] == "ant/1~jpeg" and keys["train/ant/1.jpg.jpg"] == "ant/1%2Ejpg"
    assert keys["train/ant/2.JPEG"] == "ant/2" and len(set(keys.values())) == 7


WNIDS = ("n00000001", "n00000002")


def _val_labels(root: Path) -> None:
    (root / "val_labels.txt").write_text(
        "".join(f"ILSVRC2012_val_{row:08d}.JPEG {WNIDS[row % 2]}\n" for row in range(1, 5))
    )


def _kaggle(root: Path) -> None:
    rows = "".join(f"ILSVRC2012_val_{row:08d},{WNIDS[row % 2]} 85 1 499 272 \n" for row in range(1, 5))
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)


def _devkit(root: Path) -> None:
    directory = root / "ILSVRC2012_devkit_t12" / "data"
    directory.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    synsets = np.array([(2, WNIDS[0], 0), (1, WNIDS[1], 0), (3, "n00000009", 2)], dtype=kind)
    scipy.io.savemat(directory / "meta.mat", {"synsets": synsets})
    (directory / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n2\n")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for wnid in WNIDS:
        picture(tmp_path / "train" / wnid / f"{wnid}_1.JPEG")
    for row in range(1, 5):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{row:08d}.JPEG")
    return tmp_path


@pytest.mark.parametrize("write", [_val_labels, _kaggle, _devkit])
def test_imagenets_flat_val_takes_its_labels_from_a_list(flat: Path, write: Callable[[Path], None]) -> None:
    write(flat)
    listed = scan(IMAGENET, flat)
    classes, splits = read_splits(IMAGENET, flat, listed)
    assert classes == WNIDS
    found = [(entry.key[-2:], entry.label) for entry in splits["val"].entries]
    assert found == [("01", 1), ("02", 0), ("03", 1), ("04", 0)]
    assert any("val_" in file.path or "ground_truth" in file.path for file in listed[:4])


def test_imagenets_flat_val_without_labels_or_with_odd_ones_is_refused(flat: Path) -> None:
    code, text = problems(IMAGENET, flat)
    assert code == 2 and "val_labels.txt" in text and "LOC_val_solution.csv" in text
    (flat / "val_labels.txt").write_text("ILSVRC2012_val_00000001.JPEG n00000001\n")
    code, text = problems(IMAGENET, flat)
    assert code == 2 and "'val/ILSVRC2012_val_00000002.JPEG': no label" in text and "3 problems" in text
    (flat / "val_labels.txt").write_text("one two three\n")
    code, text = problems(IMAGENET, flat)
    assert code == 3 and "'val_labels.txt': not a label list" in text and "no label in" not in text


def test_an_empty_label_list_is_the_problem_of_every_image(flat: Path) -> None:
    (flat / "val_labels.txt").write_text("\n")
    code, text = problems(IMAGENET, flat)
    assert code == 2 and "no label in the label list" in text


def test_a_damaged_devkit_is_named_and_not_a_traceback(flat: Path) -> None:
    _devkit(flat)
    next(flat.rglob("meta.mat")).write_bytes(b"garbage")
    code, text = problems(IMAGENET, flat)
    assert code == 3 and "'meta.mat': not the devkit's meta.mat" in text and text.count("\n") == 1


def test_one_class_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "ant" / "1.jpg")
    code, text = problems(FOLDER, tmp_path)
    assert code == 2 and "only one class, 'ant'" in text


def test_imagenet_classes_are_wnids(flat: Path) -> None:
    _val_labels(flat)
    picture(flat / "train" / "cats" / "1.jpg")
    assert "'train/cats': not a wnid" in problems(IMAGENET, flat)[1]


def _cifar(root: Path, rows: int = 10) -> Path:
    directory = root / "cifar-10-batches-py"
    directory.mkdir()
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        pixels = np.random.default_rng(i).integers(0, 256, (rows, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [row % 10 for row in range(rows)], b"filenames": [b"x"] * rows}
        (directory / name).write_bytes(pickle.dumps(batch, protocol=2))
    (directory / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}, 2))
    return directory


def _cifar_archive(directory: Path, root: Path) -> Path:
    root.mkdir()
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(directory, directory.name)
    return path


CIFAR = DataConfig(source="cifar10", classes=10, shard_size=4, block=2)


def test_cifar_gives_the_same_samples_from_its_directory_and_its_archive(tmp_path: Path) -> None:
    _cifar_archive(_cifar(tmp_path), tmp_path / "a")
    found = [read_splits(CIFAR, root, scan(CIFAR, root)) for root in (tmp_path, tmp_path / "a")]
    assert found[0] == found[1]
    classes, splits = found[0]
    assert classes[1] == "c1" and len(splits["train"].entries) == 50 and len(splits["val"].entries) == 10
    first = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)[0].reshape(3, 32, 32)
    image = np.asarray(decode(read_entry(splits["train"].entries[0]), "x"))
    assert np.array_equal(image.transpose(2, 0, 1), first)


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.marker}",))


def test_a_malicious_cifar_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    directory = _cifar(tmp_path)
    (directory / "data_batch_2").write_bytes(pickle.dumps({b"data": _Evil(tmp_path / "marker")}, 2))
    (directory / "test_batch").write_bytes(b"junk")
    code, text = problems(CIFAR, tmp_path)
    assert code == 3 and "'data_batch_2': not a CIFAR batch: UnpicklingError: it asks for posix.system" in text
    assert "'test_batch': not a CIFAR batch" in text
    assert not (tmp_path / "marker").exists()


def test_cifar_of_another_md5_a_cut_archive_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    directory = _cifar(tmp_path)
    code, text = problems(CIFAR.model_copy(update={"md5": {"test_batch": "0" * 32}}), tmp_path)
    assert code == 3 and "'test_batch': md5 is" in text
    path = _cifar_archive(directory, tmp_path / "a")
    path.write_bytes(path.read_bytes()[:-2000])
    assert problems(CIFAR, path.parent)[0] == 3
    path.rename(path.with_name("other.tar.gz"))
    assert problems(CIFAR, path.parent)[0] == 2
    listed = scan(CIFAR, tmp_path)
    (directory / "batches.meta").unlink()
    with pytest.raises(IntegrityError, match=r"'batches.meta': missing; .* python -m stages.index"):
        read_splits(CIFAR, tmp_path, listed)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_configuration_is_valid_and_names_the_other_groups_files(path: Path) -> None:
    document = read_yaml(path)
    assert validate(DataConfig, document["data"], path.name).source == path.stem
    assert document.keys() == {"data", "defaults"}
    for group, names in document["defaults"].items():
        for name in names if isinstance(names, list) else [names]:
            assert (CONFIGS.parent / group / f"{name}.yaml").is_file(), f"{group}/{name}"


def test_block_must_be_even_and_divide_the_shard() -> None:
    for block in (3, 6):
        with pytest.raises(ValidationError, match="must be even and divide"):
            DataConfig(source="digits", shard_size=8 if block == 6 else 9, block=block)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("data: {source: digits, shards: 3}", 2, "data.shards: unknown key"),
        ("data: {source: folder}", 2, "DATA_ROOT is not set"),
        ("data: {source: digits, seed: 1e-3}", 2, "data.seed"),
        ("data: {source: digits}", 0, "1 files of source digits"),
    ],
)
def test_stage_index_says_what_is_wrong_and_exits_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int, sentence: str
) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text(text)
    arguments = ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "out" / "index.tsv")]
    result = CliRunner().invoke(index.main, arguments)
    assert result.exit_code == code, result.output
    assert sentence in result.output
    assert (tmp_path / "out" / "index.tsv").exists() == (code == 0)
    assert code == 0 or f"exit code {code}" in result.output.splitlines()[-1]
