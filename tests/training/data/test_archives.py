import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.archives import open_archive
from training.data.dataset import DataError


def check(path: Path, max_files: int = 100, max_bytes: int = 10**9) -> None:
    with open_archive(path, max_files, max_bytes):
        pass


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.fixture
def zip_with(tmp_path: Path) -> Callable[[zipfile.ZipInfo], Path]:
    def make(info: zipfile.ZipInfo) -> Path:
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/ok.png", b"ok")
            archive.writestr(info, b"data")
        return path

    return make


def test_a_plain_archive_passes(make_zip):
    check(make_zip({"a/1.png": b"1", "./b/2.png": b"2", "c/": b""}))


def test_what_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04 but not really")
    with pytest.raises(DataError, match=r"'x\.zip' is not a zip file"):
        check(path)


def test_an_empty_zip_is_refused(make_zip):
    with pytest.raises(DataError, match="is empty"):
        check(make_zip({}))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("/etc/passwd", "absolute path"),
        ("C:/x.png", "absolute path"),
        ("a/../../x.png", "points outside"),
        ("..", "points outside"),
        ("a\\x.png", "backslash"),
    ],
)
def test_names_that_leave_the_archive_are_refused(zip_with, name, fault):
    with pytest.raises(DataError, match=fault):
        check(zip_with(entry(name)))


def test_a_nul_in_a_name_is_refused(zip_with):
    path = zip_with(entry("a/xNy.png"))
    path.write_bytes(path.read_bytes().replace(b"xNy", b"x\0y"))
    with pytest.raises(DataError, match="NUL"):
        check(path)


@pytest.mark.parametrize(
    ("mode", "fault"),
    [(stat.S_IFLNK | 0o777, "symbolic link"), (stat.S_IFIFO | 0o600, "not a plain file")],
)
def test_links_and_devices_are_refused(zip_with, mode, fault):
    with pytest.raises(DataError, match=fault):
        check(zip_with(entry("a/link.png", mode)))


def test_an_encrypted_entry_is_refused(zip_with):
    path = zip_with(entry("a/secret.png"))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1  # general purpose flag, bit 0
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        check(path)


def test_a_name_that_appears_twice_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", b"1")
        archive.writestr("a/./1.png", b"2")
    with pytest.raises(DataError, match="appears twice"):
        check(path)


def test_more_entries_than_allowed_are_refused_by_the_setting_s_name(make_zip):
    with pytest.raises(DataError, match="holds 3 entries; max_files allows 2"):
        check(make_zip({"a": b"", "b": b"", "c": b""}), max_files=2)


def test_more_bytes_than_allowed_are_refused_by_the_setting_s_name(make_zip):
    with pytest.raises(DataError, match="max_bytes allows 1,000"):
        check(make_zip({"a": bytes(1001)}), max_bytes=1000)


def test_a_bomb_is_refused_by_its_ratio(make_zip):
    bomb = make_zip({"a.png": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="times its size"):
        check(bomb)


def test_entries_that_share_their_bytes_are_refused(make_zip):
    path = make_zip({"a/1.png": bytes(3000), "a/2.png": bytes(3000)})
    data = path.read_bytes()
    # Cut the second entry out and let its directory record point at the first one.
    second, directory = data.index(b"PK\x03\x04", 4), data.index(b"PK\x01\x02")
    records = bytearray(data[directory:])
    at = records.index(b"PK\x01\x02", 4)
    records[at + 42 : at + 46] = struct.pack("<I", 0)
    end = records.index(b"PK\x05\x06")
    records[end + 16 : end + 20] = struct.pack("<I", second)
    path.write_bytes(data[:second] + records)
    with pytest.raises(DataError, match="overlap"):
        check(path)


def test_a_directory_of_millions_of_entries_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.zip"
    size = 60_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, size, 0, 0)
    with path.open("wb") as f:
        f.truncate(size)
        f.seek(size)
        f.write(end)
    with pytest.raises(DataError, match="max_files"):
        check(path)


def test_a_damaged_directory_is_refused(make_zip):
    path = make_zip({"a/1.png": b"1", "a/2.png": b"2"})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 2] = 9
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        check(path)
