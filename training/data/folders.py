"""Owns which files of a folder may be read: regular ones below it, opened without a detour."""

import os
import stat
import weakref
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from training.data.dataset import DataError
from training.data.decode import MAX_IMAGE_BYTES, RejectedError, check_length
from training.data.layout import is_junk
from training.data.names import Names, normal_name, printable, stored_bytes

MAX_DEPTH = 64
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Folder:
    """The files below a folder by number, in code-point order of their names.

    names: as `normal_name` has them. folders: the folders that are there.
    """

    def __init__(
        self, root: Path, max_files: int, max_bytes: int, max_image_bytes: int = MAX_IMAGE_BYTES
    ) -> None:
        """Raises DataError for what is no folder of plain files, or too much of it."""
        self._root = root.resolve()
        files, folders = _listed(root.name, self._root, max_files, max_bytes)
        files.sort()
        _check_twice(root.name, files)
        self.names = Names(name for name, _ in files)
        self._paths = Names(path for _, path in files)
        self.folders = frozenset(folders)
        self._opened, self._max_image_bytes = _LastFolder(), max_image_bytes

    def read(self, index: int) -> bytes:
        """One file whole; raises RejectedError if it cannot be read or is no regular file."""
        folder, _, name = self._paths[index].rpartition("/")
        try:
            at = self._opened.descriptor(self._root, folder)
            return _content(name, at, self._max_image_bytes)
        except OSError as e:
            raise RejectedError(f"cannot be read: {e.strerror or e}") from e


class _LastFolder:
    """The folder that was read from last, held open, since the next file mostly lies there too."""

    def __init__(self) -> None:
        self._name, self._held = "", ExitStack()
        self._at: int | None = None
        weakref.finalize(self, self._held.close)

    def descriptor(self, root: Path, name: str) -> int:
        """Of a folder below `root`, opened through no link; raises OSError."""
        if self._at is None or name != self._name:
            self._held.close()
            self._at = None
            self._at = _open_folder(root, name)
            self._held.callback(os.close, self._at)
            self._name = name
        return self._at


def _open_folder(root: Path, path: str) -> int:
    """The descriptor of a folder, step by step, so that what became a link leads nowhere."""
    at = os.open(root, _FOLDER_FLAGS)
    for name in path.split("/") if path else ():
        try:
            below = os.open(name, _FOLDER_FLAGS, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _open_file(name: str, at: int) -> int:
    """The descriptor of a regular file in a folder, opened through no link and without waiting.

    Nothing else is ever opened: to open a pipe or a device is to do something to it. Raises
    OSError, RejectedError.
    """
    _check_regular(os.stat(name, dir_fd=at, follow_symlinks=False))
    return os.open(name, _FILE_FLAGS, dir_fd=at)


def _content(name: str, at: int, most: int) -> bytes:
    fd = _open_file(name, at)
    try:
        status = os.fstat(fd)
        _check_regular(status)
        check_length(status.st_size, most)
        data = os.read(fd, status.st_size)
        while len(data) < status.st_size and (more := os.read(fd, status.st_size - len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) != status.st_size:
        raise RejectedError("became shorter while it was read")
    return data


@contextmanager
def open_beneath(root: Path, path: str) -> Generator[BinaryIO]:
    """Open a regular file below `root` as `_open_file` does; raises OSError, RejectedError."""
    folder, _, name = path.rpartition("/")
    at = _open_folder(root, folder)
    try:
        fd = _open_file(name, at)
    finally:
        os.close(at)
    with os.fdopen(fd, "rb") as f:
        _check_regular(os.fstat(fd))
        yield f


@contextmanager
def plain_file(path: Path) -> Generator[BinaryIO]:
    """Open a file that lies beside others, if it is a regular one itself; raises DataError."""
    try:
        with open_beneath(path.parent.resolve(), path.name) as f:
            yield f
    except RejectedError as e:
        raise DataError(f"{printable(path.name)!r} {e}; put a copy in its place.") from e


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RejectedError("is not a regular file")


# ── what is there ────────────────────────────────────────────────────────────────────────────


def _listed(
    shown: str, root: Path, max_files: int, max_bytes: int
) -> tuple[list[tuple[bytes, bytes]], set[str]]:
    """Names and paths of the files below `root`, and the names of its folders."""
    files: list[tuple[bytes, bytes]] = []
    folders: set[str] = set()
    total, below = 0, os.path.join(root, "")
    for entry in _walk(shown, root):
        relative = entry.path.removeprefix(below)
        name = normal_name(relative)
        if entry.is_dir(follow_symlinks=False):
            folders.add(name)
        else:
            path = _link_target(shown, root, entry, relative) if entry.is_symlink() else relative
            files.append((stored_bytes(name), stored_bytes(path)))
            total += _size(entry)
        if len(files) + len(folders) > max_files:
            raise DataError(f"{shown!r} holds more than the {max_files:,} files of max_files.")
    if total > max_bytes:
        raise DataError(
            f"The files of {shown!r} have {total:,} bytes; max_bytes allows {max_bytes:,}."
        )
    if not files:
        raise DataError(f"{shown!r} holds no files; put images or class folders in it.")
    return files, folders


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # gone since it was listed, as whoever reads it will find
        return 0


def _walk(shown: str, root: Path) -> Iterator[os.DirEntry[str]]:
    """All that is below `root` but junk, folders before what is in them."""
    device = root.stat().st_dev
    waiting = [(str(root), 0)]
    while waiting:
        folder, depth = waiting.pop()
        for entry in _scanned(shown, folder):
            if is_junk(entry.name):
                continue
            yield entry
            if entry.is_dir(follow_symlinks=False):
                _check_folder(shown, root, entry, depth, device)
                waiting.append((entry.path, depth + 1))


def _scanned(shown: str, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as e:
        name = printable(os.path.basename(folder))
        raise DataError(
            f"Folder '{name}' of {shown!r} cannot be read ({e.strerror or e}); change its"
            " rights, or move it away."
        ) from e


def _check_folder(shown: str, root: Path, entry: os.DirEntry[str], depth: int, device: int) -> None:
    name = printable(os.path.relpath(entry.path, root))
    if depth + 1 >= MAX_DEPTH:
        raise DataError(
            f"Folder '{name[:200]}' of {shown!r} lies {depth + 1} folders deep; at most"
            f" {MAX_DEPTH - 1} are read: move its files up."
        )
    if entry.stat(follow_symlinks=False).st_dev != device:
        raise DataError(
            f"Folder '{name}' of {shown!r} is another file system that is mounted there; copy what"
            " is in it, or import it by itself."
        )


def _link_target(shown: str, root: Path, entry: os.DirEntry[str], relative: str) -> str:
    """A link to a file inside the folder is that file; every other link is refused."""
    try:
        target = Path(os.path.realpath(entry.path, strict=True))
    except OSError:
        target = None
    if target is None or not target.is_file() or not target.is_relative_to(root):
        raise DataError(
            f"'{printable(relative)}' of {shown!r} is a symbolic link to a folder, to nothing or"
            " out of the folder; copy there what it points to."
        )
    return str(target.relative_to(root))


def _check_twice(shown: str, files: list[tuple[bytes, bytes]]) -> None:
    previous = None
    for name, _ in files:
        if name == previous:
            raise DataError(
                f"'{name.decode('utf-8', 'backslashreplace')}' of {shown!r} is there twice, spelt"
                " with other Unicode characters that look the same; rename one of them."
            )
        previous = name
