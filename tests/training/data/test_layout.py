import pytest

from training.data.dataset import DataError
from training.data.layout import is_junk, lay_out


def test_class_index_is_the_position_in_code_point_order():
    layout = lay_out(["b/1.png", "Z/1.png", "10/1.png", "9/1.png", "ä/1.png"], [])
    assert layout.class_names == ("10", "9", "Z", "b", "ä")
    assert layout.labels["9/1.png"] == 1


def test_flat_files_have_no_classes():
    layout = lay_out(["2.png", "1.png"], [])
    assert layout.class_names == ()
    assert layout.labels == {"1.png": None, "2.png": None}


def test_a_folder_that_wraps_the_class_folders_is_looked_through():
    layout = lay_out(["mnist/train/0/1.png", "mnist/train/1/1.png"], ["mnist", "mnist/train"])
    assert layout.class_names == ("0", "1")


def test_folders_inside_a_class_belong_to_it():
    layout = lay_out(["a/x/1.png", "a/2.png", "b/3.png"], ["a", "a/x", "b"])
    assert layout.class_names == ("a", "b")
    assert layout.labels["a/x/1.png"] == 0


def test_an_empty_folder_is_a_class_still():
    assert lay_out(["m/a/1.png", "m/a/2.png"], ["m", "m/a", "m/b"]).class_names == ("a", "b")


def test_files_beside_the_class_folders_are_strays():
    assert lay_out(["a/1.png", "readme.txt"], []).strays == {"readme.txt"}


@pytest.mark.parametrize("path", ["__MACOSX/a/._1.png", "a/.DS_Store", "a/Thumbs.db", ".git/x"])
def test_what_operating_systems_leave_behind_is_junk(path):
    assert is_junk(path)


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "x" * 101])
def test_a_folder_name_that_cannot_be_printed_is_refused(name):
    with pytest.raises(DataError, match="cannot be a class name"):
        lay_out([f"{name}/1.png", "b/1.png"], [])
