import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import DataError
from training.data.sources import Source, open_source

KINDS = {"uint8": 0x08, "int32": 0x0C}


def idx(array: np.ndarray) -> bytes:
    """An IDX file, as the format's page says: two zeros, type, dimensions, sides, values."""
    header = struct.pack(f">HBB{array.ndim}I", 0, KINDS[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 7), np.uint8)
LABELS = np.array([3, 0, 1, 3, 0, 1], np.uint8)


def write_pair(folder: Path, prefix: str = "train-", suffix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    pack = gzip.compress if suffix else bytes
    (folder / f"{prefix}labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS)))
    path = folder / f"{prefix}images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx(IMAGES)))
    return path


def opened(path: Path, scratch: Path, max_files: int = 100, max_bytes: int = 10**6) -> Source:
    scratch.mkdir(exist_ok=True)
    bounds = {"max_files": max_files, "max_bytes": max_bytes, "scratch": scratch}
    with open_source(path, **bounds) as source:
        return source


def pixels(source: Source) -> np.ndarray:
    return np.stack([source.read(item) for item in source.items])[..., 0]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_and_the_labels_beside_them_are_read(tmp_path, suffix):
    source = opened(write_pair(tmp_path / "mnist", suffix=suffix), tmp_path / "scratch")
    assert (pixels(source) == IMAGES).all()
    assert [item.label for item in source.items] == LABELS.tolist()
    assert source.class_names == ("0", "1", "2", "3")
    assert source.items[2].file == f"train-images-idx3-ubyte{suffix}[2]"


def test_names_with_a_dot_as_kaggle_has_them_are_found(tmp_path):
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx(LABELS.astype(np.int32)))
    source = opened(tmp_path / "t10k-images.idx3-ubyte", tmp_path / "scratch")
    assert [item.label for item in source.items] == LABELS.tolist()


def test_a_folder_of_training_and_test_images_is_read_whole(tmp_path):
    write_pair(tmp_path / "mnist", "train-", ".gz")
    write_pair(tmp_path / "mnist", "t10k-", ".gz")
    source = opened(tmp_path / "mnist", tmp_path / "scratch")
    assert [item.file for item in source.items][::6] == [
        "t10k-images-idx3-ubyte.gz[0]",
        "train-images-idx3-ubyte.gz[0]",
    ]
    assert (pixels(source)[6:] == IMAGES).all()


def test_files_of_two_sets_in_a_folder_are_refused(tmp_path):
    for prefix in ("emnist-letters-train-", "emnist-digits-train-"):
        write_pair(tmp_path / "emnist", prefix)
    with pytest.raises(DataError, match="not parts of one set; import one of them"):
        opened(tmp_path / "emnist", tmp_path / "scratch")


def test_images_without_labels_beside_them_have_no_classes(tmp_path):
    path = write_pair(tmp_path / "mnist")
    path.with_name("train-labels-idx1-ubyte").unlink()
    assert opened(path, tmp_path / "scratch").class_names == ()


def test_labels_that_are_a_link_are_not_followed(tmp_path):
    path = write_pair(tmp_path / "mnist")
    labels = path.with_name("train-labels-idx1-ubyte")
    labels.rename(tmp_path / "secret")
    labels.symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="is not a regular file; put a copy in its place"):
        opened(path, tmp_path / "scratch")


WHOLE = idx(IMAGES)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "is not an IDX file"),
        (WHOLE[:9], "ends within its header"),
        (WHOLE[:-1], "is shorter than the 226 bytes"),
        (WHOLE + b"\0", "is longer than the 226 bytes"),
        (b"\0\0\x0d\x03" + WHOLE[4:], "type 0x0d"),
        (b"\0\0\x08\x05" + WHOLE[4:], "is not an IDX file"),
        (idx(LABELS), r"expected unsigned bytes of shape \(N, H, W\)"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), "no images"),
        (struct.pack(">HBB3I", 0, 8, 3, 101, 28, 28), "101 images; max_files allows 100"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "max_files"),
        (struct.pack(">HBB3I", 0, 8, 3, 9, 2**32 - 1, 2**32 - 1), "max_bytes allows 1,000,000"),
        (gzip.compress(WHOLE)[:-9], "is a damaged gzip file"),
        (gzip.compress(WHOLE[:-1]), "is shorter than"),
        (b"\x1f\x8b nothing of that kind", "is a damaged gzip file"),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_refused(tmp_path, data, said):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        opened(path, tmp_path / "scratch")


def test_a_bomb_is_unpacked_no_further_than_its_header_announces(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(WHOLE + bytes(50_000_000)))
    with pytest.raises(DataError, match="is longer than the 226 bytes"):
        opened(path, tmp_path / "scratch")
    assert sum(p.stat().st_size for p in (tmp_path / "scratch").iterdir()) == len(WHOLE) + 1


def test_labels_of_another_number_than_images_are_refused(tmp_path):
    path = write_pair(tmp_path / "mnist")
    path.with_name("train-labels-idx1-ubyte").write_bytes(idx(LABELS[:-1]))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte is uint8 of shape \(5,\)"):
        opened(path, tmp_path / "scratch")
