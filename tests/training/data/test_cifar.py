from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import DataError
from training.data.sources import Source, open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


def records(labels: list[int], coarse: list[int] | None = None) -> bytes:
    """Binary batches as CIFAR's page has them: labels, then red, green and blue, row by row."""
    planes = PIXELS[: len(labels)].transpose(0, 3, 1, 2).reshape(len(labels), -1)
    fronts = [labels] if coarse is None else [coarse, labels]
    return np.column_stack([*map(np.array, fronts), planes]).astype(np.uint8).tobytes()


def opened(path: Path, max_files: int = 100) -> Source:
    bounds = {"max_files": max_files, "max_bytes": 10**6, "scratch": path.parent}
    with open_source(path, **bounds) as source:
        return source


@pytest.fixture
def ten(tmp_path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    (folder / "data_batch_1.bin").write_bytes(records([2, 0, 1, 2]))
    (folder / "test_batch.bin").write_bytes(records([1, 1]))
    (folder / "readme.html").write_text("<p>")
    return folder


def test_pixels_labels_and_names_of_cifar_10_arrive(ten):
    source = opened(ten)
    assert source.class_names == ("airplane", "automobile", "bird")
    assert [item.label for item in source.items] == [2, 0, 1, 2, 1, 1]
    assert (np.stack([source.read(item) for item in source.items])[:4] == PIXELS).all()
    assert source.items[4].file == "test_batch.bin[0]"


def test_one_batch_alone_is_read_with_the_names_beside_it(ten):
    source = opened(ten / "test_batch.bin")
    assert len(source.items) == 2
    assert source.class_names[1] == "automobile"


def test_of_cifar_100_the_fine_label_counts(tmp_path):
    (tmp_path / "train.bin").write_bytes(records([1, 0, 1], coarse=[9, 9, 8]))
    (tmp_path / "fine_label_names.txt").write_text("apple\nfish\n")
    source = opened(tmp_path / "train.bin")
    assert source.class_names == ("apple", "fish")
    assert [item.label for item in source.items] == [1, 0, 1]
    assert (source.read(source.items[2]) == PIXELS[2]).all()


def test_without_names_numbers_are_the_names(ten):
    (ten / "batches.meta.txt").unlink()
    assert opened(ten).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("data_batch_1.bin", records([0])[:-1], "expected a multiple of 3,073"),
        ("data_batch_1.bin", b"", "is 0 bytes long"),
        ("data_batch_1.bin", records([0, 3]), "labels go up to 3"),
        ("batches.meta.txt", b"a\nb\nb\n", "2 of them different"),
        ("batches.meta.txt", b"a\nb\n\xff\n", "is not UTF-8"),
        ("batches.meta.txt", b"a\nb\n" + b"x" * 101, "cannot be a class name"),
        ("train.bin", b"x", "batches of CIFAR-10 and of CIFAR-100"),
    ],
)
def test_batches_that_do_not_add_up_are_refused(ten, file, data, said):
    (ten / file).write_bytes(data)
    with pytest.raises(DataError, match=said):
        opened(ten)


def test_more_images_than_allowed_are_refused(ten):
    with pytest.raises(DataError, match="6 images; max_files allows 5"):
        opened(ten, max_files=5)


def test_a_batch_that_is_a_link_is_not_followed_out_of_its_folder(ten, tmp_path):
    (ten / "test_batch.bin").rename(tmp_path / "secret")
    (ten / "test_batch.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="regular file"):
        opened(ten)
