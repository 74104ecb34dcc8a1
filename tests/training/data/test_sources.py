import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from training.data.dataset import DataError
from training.data.decode import RejectedError
from training.data.sources import Source, open_source


def opened(path: Path, max_files: int = 100, max_bytes: int = 10**9) -> Source:
    with open_source(path, max_files=max_files, max_bytes=max_bytes, scratch=path.parent) as src:
        return src


@pytest.fixture
def folder(tmp_path: Path, noise) -> Path:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(1))
    return tmp_path / "folder"


def test_a_folder_is_read_in_code_point_order(folder):
    assert [(i.file, i.label) for i in opened(folder).items] == [
        ("a/1.png", 0),
        ("a/2.png", 0),
        ("b/1.png", 1),
    ]


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "canary").write_text("secret")
    (folder / "a" / "x.png").symlink_to(tmp_path / "canary")
    with pytest.raises(DataError, match=r"'a/x\.png' of 'folder' is a symbolic link"):
        opened(folder)


def test_a_link_to_a_folder_is_refused_so_no_walk_is_endless(folder):
    (folder / "a" / "again").symlink_to(folder)
    with pytest.raises(DataError, match="symbolic link to a folder"):
        opened(folder)


def test_a_link_to_nothing_is_refused(folder):
    (folder / "a" / "x.png").symlink_to(folder / "nowhere")
    with pytest.raises(DataError, match="symbolic link"):
        opened(folder)


def test_a_link_to_a_file_of_the_folder_is_that_file(folder):
    (folder / "b" / "2.png").symlink_to(folder / "a" / "1.png")
    src = opened(folder)
    assert src.items[-1].file == "b/2.png"
    assert src.read(src.items[-1]) == (folder / "a" / "1.png").read_bytes()


def test_a_link_may_stand_for_the_whole_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(opened(tmp_path / "link").items) == 3


def test_a_pipe_in_a_folder_is_never_opened(folder):
    os.mkfifo(folder / "a" / "pipe.png")
    src = opened(folder)
    [pipe] = [i for i in src.items if i.file == "a/pipe.png"]
    with pytest.raises(RejectedError, match="is not a regular file"):
        src.read(pipe)


def test_a_folder_over_its_limits_is_refused_by_the_setting_s_name(folder):
    with pytest.raises(DataError, match="max_files"):
        opened(folder, max_files=2)
    with pytest.raises(DataError, match="max_bytes allows 100"):
        opened(folder, max_bytes=100)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        opened(tmp_path / "empty")


def test_what_does_not_exist_is_refused_with_what_can_be_given(tmp_path):
    with pytest.raises(DataError, match=r"does not exist; give a folder, a \.zip"):
        opened(tmp_path / "nothing")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.iso").write_bytes(b"x")
    with pytest.raises(DataError, match=r"'x\.iso' is not something images can be read from"):
        opened(tmp_path / "x.iso")


@pytest.mark.parametrize("name", ["x.tar", "cifar-10-binary.tar.gz", "x.TGZ"])
def test_a_tar_is_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"is a tar archive, .* unpack it and give the folder"):
        opened(tmp_path / name)


def test_an_array_of_objects_is_refused_unopened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([np.zeros(3), None], dtype=object))
    with pytest.raises(DataError, match="Python objects, which could run code"):
        opened(tmp_path / "x.npy")


def test_an_array_of_objects_inside_an_npz_is_refused_unopened(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.array([np.zeros(3), None], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        opened(tmp_path / "x.npz")


@pytest.mark.parametrize("at", [0, 3, 50, 127, 500])
def test_a_cut_array_file_is_refused(tmp_path, at):
    np.save(tmp_path / "x.npy", np.zeros((3, 28, 28), np.uint8))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:at])
    with pytest.raises(DataError, match="not a whole"):
        opened(tmp_path / "x.npy")


def test_a_pickle_named_npy_is_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.")
    with pytest.raises(DataError, match="not a whole"):
        opened(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((3, 28), np.uint8), r"shape \(3, 28\)"),
        (np.zeros((0, 28, 28), np.uint8), "no images"),
        (np.zeros((3, 28, 28, 4), np.uint8), "1 or 3 channels"),
        (np.zeros((3, 3, 28, 28), np.uint8), "move the channels last"),
        (np.zeros((3, 2, 2), np.uint8), "sides of 4 or more"),
        (np.zeros((3, 8, 8), np.int64), "is of type int64; expected uint8"),
        (np.zeros((3, 8, 8), np.complex64), "is of type complex64"),
        (np.full((3, 8, 8), 255, np.float32), "values from 255 to 255"),
        (np.full((3, 8, 8), -1.5, np.float32), "values from -1.5"),
        (np.float32(1), r"shape \(\)"),
    ],
)
def test_an_array_that_is_no_images_is_refused_with_what_it_is(tmp_path, images, said):
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "x.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_naming_the_image(tmp_path, bad):
    images = np.zeros((5, 8, 8), np.float32)
    images[3, 2, 1] = bad
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(DataError, match="NaN or infinite values, first in image 3"):
        opened(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(2, np.int64), r"int64 of shape \(2,\)"),
        (np.zeros(3), "float64"),
        (np.array([0, -1, 2]), "has classes from -1 to 2"),
        (np.array([0, 1, 10**9]), "has classes from 0 to 1000000000"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, said):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=labels)
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "x.npz")


def test_an_npz_of_several_unnamed_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((3, 8, 8), np.uint8), np.zeros(3))
    with pytest.raises(DataError, match="name the array of images 'images'"):
        opened(tmp_path / "x.npz")


def test_an_array_over_the_limit_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((101, 8, 8), np.uint8))
    with pytest.raises(DataError, match="101 images; max_files allows 100"):
        opened(tmp_path / "x.npy")


def test_class_names_of_an_npz_are_kept(tmp_path):
    images, labels = np.zeros((3, 8, 8), np.uint8), np.array([1, 0, 1])
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=["dent", "scratch"])
    assert opened(tmp_path / "x.npz").class_names == ("dent", "scratch")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (np.array(["a"]), "labels go up to 1"),
        (np.array(["a", "a"]), "1 of them different"),
        (np.array(["a", ""]), "cannot be a class name"),
        (np.array([b"a", b"b"]), r"is \|S1 of shape \(2,\); expected text"),
        (np.array([["a", "b"]]), r"shape \(1, 2\); expected text"),
        (np.array(["a", None], dtype=object), "Python objects"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path, names, said):
    images, labels = np.zeros((3, 8, 8), np.uint8), np.array([1, 0, 1])
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=names)
    with pytest.raises(DataError, match=said):
        opened(tmp_path / "x.npz")


def test_a_zip_of_arrays_is_an_npz_whatever_its_name(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "x.npz").rename(tmp_path / "upload.zip")
    assert len(opened(tmp_path / "upload.zip").items) == 3


def test_an_array_of_another_suffix_is_known_by_its_first_bytes(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "x.npy").rename(tmp_path / "upload.bin")
    assert len(opened(tmp_path / "upload.bin").items) == 3


def test_a_pipe_in_place_of_a_source_is_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(DataError, match="is not a regular file"):
        opened(tmp_path / "x.zip")


def test_a_socket_and_a_device_are_told_apart_from_files(folder, monkeypatch):
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder / "a")  # a socket's path is short
        server.bind("x.png")
    src = opened(folder)
    [item] = [i for i in src.items if i.file == "a/x.png"]
    with pytest.raises(RejectedError, match="is not a regular file"):
        src.read(item)


def test_a_folder_that_became_a_link_since_it_was_listed_leads_nowhere(folder, tmp_path):
    src = opened(folder)
    (folder / "a").rename(tmp_path / "elsewhere")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RejectedError, match="cannot be read"):
        src.read(src.items[0])


def test_a_file_that_became_a_link_since_it_was_listed_leads_nowhere(folder, tmp_path):
    (tmp_path / "canary").write_bytes(b"secret")
    src = opened(folder)
    (folder / "a/1.png").unlink()
    (folder / "a/1.png").symlink_to(tmp_path / "canary")
    with pytest.raises(RejectedError, match="is not a regular file"):
        src.read(src.items[0])


def test_a_file_that_is_gone_since_it_was_listed_is_rejected(folder):
    src = opened(folder)
    (folder / "a/1.png").unlink()
    with pytest.raises(RejectedError, match="cannot be read: No such file"):
        src.read(src.items[0])


def test_a_name_that_is_not_utf_8_is_shown_with_escapes(folder):
    (folder / "a" / os.fsdecode(b"\xff\x1b[2J.png")).write_bytes(b"x")
    src = opened(folder)
    [item] = [i for i in src.items if "2J" in i.file]
    assert item.file == r"a/\udcff\x1b[2J.png"
    assert src.read(item) == b"x"


def test_two_spellings_of_one_name_are_refused(folder):
    for name in ("\u00e9.png", "e\u0301.png"):
        (folder / "a" / name).write_bytes(b"x")
    with pytest.raises(DataError, match="is there twice, spelt with other Unicode characters"):
        opened(folder)


def test_names_that_differ_by_case_are_two_files(folder):
    (folder / "a" / "1.PNG").write_bytes(b"x")
    assert len(opened(folder).items) == 4


def test_folders_nested_without_end_are_refused(folder):
    deep = folder.joinpath(*["d"] * 70)
    deep.mkdir(parents=True)
    with pytest.raises(DataError, match="lies 64 folders deep; at most 63 are read"):
        opened(folder)


def test_another_file_system_mounted_in_a_folder_is_refused(folder, monkeypatch):
    real = Path.stat

    def elsewhere(path, **how):
        status = real(path, **how)
        return SimpleNamespace(st_dev=-1, st_mode=status.st_mode) if path == folder else status

    monkeypatch.setattr(Path, "stat", elsewhere)
    with pytest.raises(DataError, match="is another file system that is mounted there"):
        opened(folder)


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    real = os.scandir

    def refusing(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        DataError, match=r"Folder 'b' of 'folder' cannot be read \(Permission denied"
    ):
        opened(folder)


@pytest.mark.parametrize(
    "magic", [b"PK\x03\x04", b"\x1f\x8b\x08", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c"]
)
def test_an_archive_among_the_images_is_rejected_as_one(folder, magic):
    (folder / "a/1.png").write_bytes(magic + bytes(600))
    src = opened(folder)
    with pytest.raises(RejectedError, match="is an archive; unpack it first"):
        src.read(src.items[0])
