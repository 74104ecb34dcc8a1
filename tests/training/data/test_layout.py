import pytest

from training.data.dataset import DataError
from training.data.layout import MAX_CLASSES, NO_CLASS, is_junk, lay_out


def test_class_index_is_the_position_in_code_point_order():
    layout = lay_out(["10/1.png", "9/1.png", "Z/1.png", "b/1.png", "ä/1.png"], [])
    assert layout.class_names == ("10", "9", "Z", "b", "ä")
    assert list(layout.labels) == [0, 1, 2, 3, 4]


def test_flat_files_have_no_classes():
    layout = lay_out(["1.png", "2.png"], [])
    assert layout.class_names == ()
    assert list(layout.labels) == [NO_CLASS, NO_CLASS]


def test_a_folder_that_wraps_the_class_folders_is_looked_through():
    layout = lay_out(["mnist/train/0/1.png", "mnist/train/1/1.png"], ["mnist", "mnist/train"])
    assert layout.class_names == ("0", "1")


def test_folders_inside_a_class_belong_to_it():
    layout = lay_out(["a/2.png", "a/x/1.png", "b/3.png"], ["a", "a/x", "b"])
    assert layout.class_names == ("a", "b")
    assert list(layout.labels) == [0, 0, 1]


def test_an_empty_folder_is_a_class_still():
    assert lay_out(["m/a/1.png", "m/a/2.png"], ["m", "m/a", "m/b"]).class_names == ("a", "b")


def test_files_beside_the_class_folders_have_no_class():
    layout = lay_out(["a/1.png", "readme.txt"], [])
    assert list(layout.labels) == [0, NO_CLASS]
    assert layout.no_class == "lies beside the class folders, so it has no class"


def test_more_folders_than_there_may_be_classes_are_refused():
    files = [f"{i:05d}/1.png" for i in range(MAX_CLASSES + 1)]
    with pytest.raises(DataError, match="There are 10,001 classes; at most 10,000"):
        lay_out(files, [])


@pytest.mark.parametrize(
    "path", ["__MACOSX/a/._1.png", "a/.DS_Store", "a/Thumbs.db", ".git/x", "a/Icon\r"]
)
def test_what_operating_systems_leave_behind_is_junk(path):
    assert is_junk(path)


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "x" * 101])
def test_a_folder_name_that_cannot_be_printed_is_refused(name):
    with pytest.raises(DataError, match="cannot be a class name"):
        lay_out(sorted([f"{name}/1.png", "b/1.png"]), [])
