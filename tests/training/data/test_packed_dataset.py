import json
from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import DataError, content_hash, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.packing import save_array


@pytest.fixture
def packed(make_zip, two_classes, tmp_path: Path) -> Path:
    import_dataset(make_zip(two_classes), tmp_path / "packed", ImportOptions("x"))
    return tmp_path / "packed"


def test_images_are_mapped_not_read(packed):
    assert isinstance(load_dataset(packed).images, np.memmap)


def test_a_folder_that_is_no_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="noisewell data import"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "heldout.npy", "manifest.json"])
@pytest.mark.parametrize("left", [None, 0, 40])
def test_a_missing_or_cut_file_is_named(packed, name, left):
    data = (packed / name).read_bytes()
    (packed / name).unlink()
    if left is not None:
        (packed / name).write_bytes(data[:left])
    with pytest.raises(DataError, match=name):
        load_dataset(packed)


def test_arrays_that_do_not_fit_the_manifest_are_refused(packed):
    np.save(packed / "labels.npy", np.full(10, 7))
    with pytest.raises(DataError, match="do not fit its manifest"):
        load_dataset(packed)


def test_another_format_is_refused(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    (packed / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(DataError, match="dataset format 2, this version reads 1"):
        load_dataset(packed)


def test_an_array_of_objects_in_a_pack_is_not_unpickled(packed):
    np.save(packed / "heldout.npy", np.array([None] * 10, dtype=object))
    with pytest.raises(DataError, match=r"heldout\.npy"):
        load_dataset(packed)


@pytest.mark.parametrize("array", [np.arange(9), np.array([True, False]), np.zeros((2, 3, 1))])
def test_an_array_is_written_as_numpy_does_it(array, tmp_path):
    np.save(tmp_path / "theirs.npy", array)
    save_array(tmp_path / "ours.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is full")
def test_an_array_that_finds_no_room_is_not_taken_for_written():
    with pytest.raises(OSError, match="No space"):
        save_array(Path("/dev/full"), np.arange(9))


@pytest.mark.parametrize("more", [{}, {"b/0bad.png": b"x"}])
def test_the_hash_is_that_of_the_content_whether_or_not_all_files_came(
    make_zip, two_classes, tmp_path, more
):
    path = make_zip(two_classes | more)
    dataset = import_dataset(path, tmp_path / "packed", ImportOptions("x"))
    found = content_hash(np.asarray(dataset.images), dataset.labels, dataset.class_names)
    assert found == dataset.hash
