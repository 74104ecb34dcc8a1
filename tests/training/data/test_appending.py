import numpy as np
import pytest

from training.data.dataset import DataError
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.verdicts import read_verdicts


@pytest.fixture
def base(make_zip, two_classes, tmp_path):
    options = ImportOptions("parts", resolution=28, channels=1)
    return import_dataset(make_zip(two_classes), tmp_path / "one", options), tmp_path / "one"


@pytest.fixture
def append(make_zip, tmp_path):
    def to(folder, entries, **asked):
        options = ImportOptions("parts", append_to=folder, **asked)
        return import_dataset(make_zip(entries, "more.zip"), tmp_path / "two", options)

    return to


def test_the_images_of_the_base_come_first_and_stay_as_they_are(base, append, noise):
    old, folder = base
    new = append(folder, {"b/x.png": noise(90), "a/y.png": noise(91, side=50)})
    assert new.num_images == old.num_images + 2
    assert (new.images[:10] == old.images).all()
    assert (new.labels[:10] == old.labels).all()
    assert (new.heldout[:10] == old.heldout).all()
    assert new.labels[10:].tolist() == [0, 1]
    assert new.manifest["appended_to"] == {"name": "parts", "hash": old.hash, "num_images": 10}


def test_the_base_is_untouched(base, append, noise):
    _, folder = base
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    append(folder, {"a/x.png": noise(90)})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_appended_dataset_has_the_hash_of_one_that_was_imported_whole(
    base, append, two_classes, make_zip, noise, tmp_path
):
    _, folder = base
    new = append(folder, {"b/6.png": noise(90)})
    whole = make_zip({**two_classes, "b/6.png": noise(90)}, "whole.zip")
    options = ImportOptions("parts", resolution=28, channels=1)
    assert import_dataset(whole, tmp_path / "whole", options).hash == new.hash


def test_new_classes_stand_behind_those_of_the_base(base, append, noise):
    _, folder = base
    new = append(folder, {"A first/x.png": noise(90), "b/y.png": noise(91)})
    assert new.class_names == ("a", "b", "A first")
    assert new.labels[10:].tolist() == [2, 1]
    assert [v["class"] for v in read_verdicts(new_folder(folder))] == ["A first", "b"]


def new_folder(folder):
    return folder.with_name("two")


def test_verdicts_are_of_the_new_files_and_name_copies_of_old_images(base, append, noise):
    _, folder = base
    append(folder, {"a/x.png": noise(0), "b/y.png": noise(91)})
    lines = list(read_verdicts(new_folder(folder)))
    assert [v["index"] for v in lines] == [10, 11]
    assert [v.get("duplicate_of") for v in lines] == [0, None]


def test_another_size_than_that_of_the_base_is_refused(base, append, noise):
    _, folder = base
    with pytest.raises(DataError, match="resolution 32 is not that of 'parts', which has 28"):
        append(folder, {"a/x.png": noise(90)}, resolution=32)
    assert not new_folder(folder).exists()


def test_images_without_classes_are_not_added_to_classes(base, append, noise):
    _, folder = base
    with pytest.raises(DataError, match=r"'parts' has classes and 'more\.zip' has none"):
        append(folder, {"x.png": noise(90)})


def test_colour_images_become_grey_if_the_base_is_grey(base, append, noise):
    _, folder = base
    new = append(folder, {"a/x.png": noise(90, channels=3)})
    assert new.images.shape == (11, 28, 28, 1)
    assert new.images.dtype == np.uint8
