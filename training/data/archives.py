"""Owns which zip files are safe to read: nothing is ever unpacked under a name from inside one."""

import re
import stat
import zlib
from array import array
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import DataError
from training.data.decode import MAX_IMAGE_BYTES, RejectedError, check_length
from training.data.directory import (
    LOCAL_HEADER,
    LOCAL_SIGNATURE,
    UNTOLD,
    DamagedError,
    End,
    Entry,
    Places,
    find_end,
    read_entries,
    read_entry,
)
from training.data.names import MAX_NAME_BYTES, Names, normal_name, printable

MAX_ZIP_RATIO = 100
RATIO_MATTERS_BYTES = 1_000_000  # a small file may be all of one colour
DIRECTORY_BYTES_PER_FILE = 200
BLOCK_BYTES = 1 << 20
ENCRYPTED, IS_UTF8, IS_STREAMED = 0x1 | 0x40 | 0x2000, 0x800, 0x8
STORED, DEFLATED = 0, 8
ARCHIVE_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x07\x08",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd",
    b"!<arch>\n",
)
TAR_MAGIC_AT, TAR_MAGIC = 257, b"ustar"
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


class Archive:
    """The files of a checked zip by number, in code-point order of their names.

    names: as `normal_name` has them. folders: those that have an entry of their own.
    """

    def __init__(
        self, f: BinaryIO, end: End, table: "_Table", max_zip_ratio: int, max_image_bytes: int
    ) -> None:
        self.names, self.folders = table.names, table.folders
        self._file, self._directory_end = f, end.start + end.size
        self._records, self._ends = table.records, table.ends
        self._max_ratio, self._max_image_bytes = max_zip_ratio, max_image_bytes

    def read(self, index: int) -> bytes:
        """One file unpacked; raises RejectedError if it is damaged or too long for an image."""
        entry = self._entry(index)
        check_length(entry.size, self._max_image_bytes)
        if entry.size > max(RATIO_MATTERS_BYTES, self._max_ratio * entry.packed):
            raise RejectedError(
                f"unpacks to {entry.size / max(1, entry.packed):,.0f} times its size;"
                f" max_zip_ratio allows {self._max_ratio:,}"
            )
        return b"".join(self._blocks(entry, index))

    def unpack(self, index: int, target: Path) -> None:
        """Write one file to `target`, a path of our own choice; raises RejectedError."""
        with target.open("wb") as f:
            for block in self._blocks(self._entry(index), index):
                f.write(block)

    def _entry(self, index: int) -> Entry:
        """What the directory says of a file, read anew rather than kept."""
        try:
            return read_entry(self._file, int(self._records[index]), self._directory_end)[0]
        except DamagedError as e:
            raise RejectedError("has changed while it was read") from e

    def _blocks(self, entry: Entry, index: int) -> Iterator[bytes]:
        """The unpacked bytes, which are as many as the directory says and have its checksum."""
        start = self._data_start(entry, int(self._ends[index]))
        packed = _file_blocks(self._file, start, entry.packed)
        crc = done = 0
        for block in packed if entry.method == STORED else _inflated(packed):
            done += len(block)
            if done > entry.size:
                break
            crc = zlib.crc32(block, crc)
            yield block
        if done != entry.size:
            raise RejectedError("is not as long as the directory of the zip says")
        if crc != entry.crc:
            raise RejectedError("is damaged: its checksum is wrong")

    def _data_start(self, entry: Entry, end: int) -> int:
        """Where the packed bytes begin; the local header has to say what the directory says."""
        if entry.method not in (STORED, DEFLATED):
            name = METHODS.get(entry.method, "unknown")
            raise RejectedError(
                f"is packed by method {entry.method} ({name}); only stored and deflated files are"
                " read: make the zip again without it"
            )
        self._file.seek(entry.offset)
        header = self._file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or header[:4] != LOCAL_SIGNATURE:
            raise RejectedError("is not where the directory of the zip says")
        fields = LOCAL_HEADER.unpack(header)
        name = self._file.read(fields[9])
        if not _agrees(entry, fields) or name != entry.name:
            raise RejectedError("has a header that disagrees with the directory of the zip")
        start = entry.offset + LOCAL_HEADER.size + fields[9] + fields[10]
        if start + entry.packed > end:
            raise RejectedError("shares bytes with another entry of the zip")
        return start


def _agrees(entry: Entry, fields: tuple[int, ...]) -> bool:
    """Whether a local header tells of the same file; one that was streamed may not know sizes."""
    flags, method, crc, packed, size = fields[2], fields[3], fields[6], fields[7], fields[8]
    if method != entry.method or (flags ^ entry.flags) & ENCRYPTED:
        return False
    pairs = [(crc, entry.crc), (packed, entry.packed), (size, entry.size)]
    unknown = (0, UNTOLD) if flags & IS_STREAMED else (UNTOLD,)
    return all(local in (central, *unknown) for local, central in pairs)


def _file_blocks(f: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    """`length` bytes from `start` on, wherever others have moved the file in between."""
    for at in range(start, start + length, BLOCK_BYTES):
        f.seek(at)
        yield f.read(min(BLOCK_BYTES, start + length - at))


def _inflated(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Deflated bytes unpacked, at most BLOCK_BYTES at a time; raises RejectedError."""
    inflater = zlib.decompressobj(-15)
    try:
        for block in blocks:
            while block and not inflater.eof:
                yield inflater.decompress(block, BLOCK_BYTES)
                block = inflater.unconsumed_tail
            if block or inflater.unused_data:
                raise RejectedError("is followed by bytes that are no part of it")
        yield inflater.flush(1)
    except zlib.error as e:
        raise RejectedError(f"is damaged: {e}") from e
    if not inflater.eof:
        raise RejectedError("is cut short")


# ── what is checked before anything is read ──────────────────────────────────────────────────


@dataclass(frozen=True)
class _Table:
    names: Names
    folders: frozenset[str]
    records: NDArray[np.uint64]  # where the directory tells of each file
    ends: NDArray[np.uint64]  # where the next entry begins


@contextmanager
def open_archive(
    path: Path,
    max_files: int,
    max_bytes: int,
    max_zip_ratio: int = MAX_ZIP_RATIO,
    max_image_bytes: int = MAX_IMAGE_BYTES,
) -> Generator[Archive]:
    """Open a zip and check every entry of its directory; raises DataError naming what is wrong.

    max_files counts entries, max_bytes their unpacked size by the directory, which bounds what an
    `Archive` can ever return. max_zip_ratio: of that to the zip, and of a long file to its bytes
    there.
    """
    with path.open("rb") as f:
        try:
            end = find_end(f)
            if end is None:
                raise DataError(f"{path.name!r} is not a zip file; upload a zip of class folders.")
            _check_end(path, end, max_files)
            table, unpacked = _read_table(path, f, end, max_files)
            _check_bytes(path, unpacked, max_bytes, max_zip_ratio)
        except DamagedError as e:
            raise DataError(f"Zip {path.name!r} {e}; it is damaged: make it again.") from e
        yield Archive(f, end, table, max_zip_ratio, max_image_bytes)


def _check_end(path: Path, end: End, max_files: int) -> None:
    if end.size == 0:
        raise DataError(f"Zip {path.name!r} is empty; put image files or class folders in it.")
    longest = DIRECTORY_BYTES_PER_FILE * max_files + 1_000_000
    if end.size > longest:
        raise DataError(
            f"The directory of zip {path.name!r} is {end.size:,} bytes long, more than {longest:,};"
            " it lists more files than max_files allows."
        )


def _refuse_count(path: Path, count: int, max_files: int) -> None:
    raise DataError(f"Zip {path.name!r} holds {count:,} entries; max_files allows {max_files:,}.")


def _read_table(path: Path, f: BinaryIO, end: End, max_files: int) -> tuple[_Table, int]:
    """What is kept of the directory, and how many bytes it says its files unpack to."""
    names: list[bytes] = []
    numbers, records = array("Q"), array("Q")  # of the entries that are files
    folders: set[str] = set()
    places, unpacked = Places(), 0
    for number, entry in enumerate(read_entries(f, end)):
        if number == max_files:
            _refuse_count(path, max(end.count, number + 1), max_files)
        name = _checked_name(path, entry)
        if entry.name.endswith(b"/"):
            folders.add(name)
        else:
            names.append(name.encode())
            numbers.append(number)
            records.append(entry.at)
        places.add(entry)
        unpacked += entry.size
    ends = places.ends(end.start)[np.array(numbers, np.int64)]
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    _check_twice(path, (names[i] for i in order), folders)
    table = _Table(
        names=Names(names[i] for i in order),
        folders=frozenset(folders),
        records=np.array(records, np.uint64)[order],
        ends=ends[order],
    )
    return table, unpacked


def _check_bytes(path: Path, unpacked: int, max_bytes: int, max_zip_ratio: int) -> None:
    if unpacked > max_bytes:
        raise DataError(
            f"Zip {path.name!r} unpacks to {unpacked:,} bytes; max_bytes allows {max_bytes:,}."
        )
    size = path.stat().st_size
    if unpacked > max_zip_ratio * size:
        raise DataError(
            f"Zip {path.name!r} unpacks to {unpacked / size:,.0f} times its size; max_zip_ratio"
            f" allows {max_zip_ratio:,}."
        )


def _check_twice(path: Path, names: Iterable[bytes], folders: set[str]) -> None:
    """Two entries of one name: which of them a reader takes is anybody's guess. names: sorted."""
    previous = None
    for name in names:
        if name == previous or name.decode() in folders:
            _refuse_entry(path, name.decode(), "appears twice")
        previous = name


def _checked_name(path: Path, entry: Entry) -> str:
    """The normal name of an entry that may be there; raises DataError for any other."""
    name, fault = _decoded_name(entry), _fault(entry)
    fault = fault or _name_fault(name)
    if fault:
        _refuse_entry(path, name, fault)
    return normal_name(name)


def _refuse_entry(path: Path, name: str, fault: str) -> None:
    shown = printable(name if len(name) <= 200 else f"{name[:200]}…")
    raise DataError(
        f"Entry '{shown}' of zip {path.name!r} {fault}; make the zip again with plain relative"
        " file names."
    )


def _decoded_name(entry: Entry) -> str:
    """A name as UTF-8, which most write whether they say so or not, or as the zip format has it."""
    try:
        return entry.name.decode()
    except UnicodeDecodeError:
        return entry.name.decode("cp437")


def _fault(entry: Entry) -> str | None:
    """Why an entry makes its whole archive suspect, by what the directory says of it."""
    kind, is_folder = stat.S_IFMT(entry.mode), entry.name.endswith(b"/")
    if entry.flags & ENCRYPTED:
        return "is encrypted"
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is not a plain file"
    if is_folder != (kind == stat.S_IFDIR) and kind:
        return "is a folder and a file"
    if is_folder and (entry.size or entry.packed):
        return "is a folder that holds bytes"
    if entry.flags & IS_UTF8 and not _is_utf8(entry.name):
        return "says that its name is UTF-8, but it is not"
    return None


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _name_fault(name: str) -> str | None:
    """Why no file inside an archive should have this name."""
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        return f"has a name of {len(name.encode()):,} bytes; expected 1 to {MAX_NAME_BYTES:,}"
    if "\0" in name:
        return "has a NUL in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "points outside the archive"
    if normal_name(name) in ("", ".") and name[-1:] != "/":
        return "has no name"
    return None


def check_no_archive(data: bytes) -> None:
    """Raise RejectedError for a file that is itself an archive, or packed as one."""
    at = TAR_MAGIC_AT
    if data.startswith(ARCHIVE_MAGIC) or data[at : at + len(TAR_MAGIC)] == TAR_MAGIC:
        raise RejectedError("is an archive; unpack it first, images are not looked for inside")
