"""Owns which zip files are safe to read: nothing is ever unpacked under a name from inside one."""

import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from training.data.dataset import DataError
from training.data.decode import MAX_IMAGE_BYTES

MAX_ZIP_RATIO = 100
DIRECTORY_BYTES_PER_FILE = 200
BLOCK_BYTES = 1 << 20
ENCRYPTED = 0x1 | 0x40
# What zipfile raises on hostile bytes, beside its own error.
BAD_ARCHIVE = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


class _CappedReader(io.BufferedReader):
    """A file whose longest single read is bounded.

    zipfile reads an archive's whole directory at once and makes an object of each entry before
    anyone can count them; some 30 bytes of upload become a kilobyte of memory.
    """

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(io.FileIO(path))
        self._path = path
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._most:
            raise DataError(
                f"The directory of zip {self._path.name!r} is {size:,} bytes long, more than"
                f" {self._most:,}; it lists more files than max_files allows."
            )
        return super().read(size)


@contextmanager
def open_archive(path: Path, max_files: int, max_bytes: int) -> Generator[zipfile.ZipFile]:
    """Open a zip and check every entry of its directory; raises DataError naming what is wrong.

    max_files counts entries, max_bytes their unpacked size by the directory, which bounds what
    `ZipFile.open` can ever return.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path.name!r} is not a zip file; upload a zip of class folders.")
    longest = max(MAX_IMAGE_BYTES, DIRECTORY_BYTES_PER_FILE * max_files + 1_000_000)
    with _CappedReader(path, longest) as f:
        try:
            archive = zipfile.ZipFile(f)
        except DataError:
            raise
        except BAD_ARCHIVE as e:
            raise DataError(f"Zip {path.name!r} is damaged ({e}); make it again.") from e
        with archive:
            _check_sizes(path, archive.infolist(), max_files, max_bytes)
            _check_entries(path, archive.infolist())
            yield archive


def normal_name(name: str) -> str:
    """An entry's path without `.` parts, doubled slashes or the slash that marks a folder."""
    return str(PurePosixPath(name))


def _check_sizes(
    path: Path, entries: list[zipfile.ZipInfo], max_files: int, max_bytes: int
) -> None:
    if not entries:
        raise DataError(f"Zip {path.name!r} is empty; put image files or class folders in it.")
    if len(entries) > max_files:
        raise DataError(
            f"Zip {path.name!r} holds {len(entries):,} entries; max_files allows {max_files:,}."
        )
    packed, unpacked = sum(e.compress_size for e in entries), sum(e.file_size for e in entries)
    if unpacked > max_bytes:
        raise DataError(
            f"Zip {path.name!r} unpacks to {unpacked:,} bytes; max_bytes allows {max_bytes:,}."
        )
    size = path.stat().st_size
    if packed > size:  # entries that share bytes: how a small zip unpacks to petabytes
        raise DataError(f"Zip {path.name!r} has entries that overlap; make it again.")
    if unpacked > MAX_ZIP_RATIO * size:
        raise DataError(
            f"Zip {path.name!r} unpacks to {unpacked / size:,.0f} times its size; at most"
            f" {MAX_ZIP_RATIO} times is taken for images."
        )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        fault = _fault(entry)
        name = normal_name(entry.filename)
        if fault is None and name in seen and not entry.is_dir():
            fault = "appears twice"
        if fault:
            raise DataError(
                f"Entry {entry.orig_filename!a} of zip {path.name!r} {fault}; make the zip"
                " again with plain relative file names."
            )
        seen.add(name)


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry makes its whole archive suspect, or None."""
    name = entry.orig_filename  # as stored: zipfile has cut `filename` at a NUL
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    if "\0" in name:
        return "has a NUL in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "points outside the archive"
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is not a plain file"
    return None


def open_entry(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """An entry as a seekable stream, never longer than its directory said."""
    return archive.open(name)  # type: ignore[return-value]


def unpack_entry(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    """Write an entry to `target`, a path of our own choice; raises DataError if it is damaged."""
    with target.open("wb") as f:
        for block in _blocks(archive, name):
            f.write(block)


def _blocks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    try:
        with archive.open(name) as entry:
            while block := entry.read(BLOCK_BYTES):
                yield block
    except BAD_ARCHIVE as e:
        raise DataError(f"Entry {name!a} of the archive is damaged ({e}); save it again.") from e
