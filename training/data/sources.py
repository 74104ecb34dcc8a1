"""Owns where images come from: folders, zips, NumPy files, packed datasets, read all alike."""

import os
import stat
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.archives import normal_name, open_archive, open_entry, unpack_entry
from training.data.arrays import check_images, check_labels, open_npy, to_pixels
from training.data.dataset import DataError, is_packed, load_dataset
from training.data.decode import (
    Decoded,
    Header,
    RejectedError,
    check_length,
    damage_is_rejected,
    decode,
    read_header,
)
from training.data.layout import is_junk, lay_out

SOURCES = "a folder, a .zip, a .npy, a .npz or a packed dataset"


@dataclass(frozen=True)
class Item:
    """One image of a source: its name for people, its class, and where its source finds it."""

    file: str
    label: int | None
    key: str | int


class Source(Protocol):
    """Images that can be asked for one by one; class_names is () when unlabelled."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def header(self, item: Item) -> Header:
        """Raises RejectedError."""
        ...

    def read(self, item: Item) -> Decoded:
        """Raises RejectedError."""
        ...


class FileSource:
    """Encoded image files; `open_file` finds a file's stream, `sizes` its length in bytes."""

    def __init__(
        self,
        names: dict[str, Any],
        folders: set[str],
        open_file: Callable[[Any], BinaryIO],
        sizes: dict[str, int],
    ) -> None:
        layout = lay_out(names, folders)
        self.class_names = layout.class_names
        self.items = [Item(file, label, file) for file, label in layout.labels.items()]
        self._names, self._sizes, self._strays = names, sizes, layout.strays
        self._open_file = open_file

    def header(self, item: Item) -> Header:
        self._check(item)
        with damage_is_rejected(), self._open_file(self._names[item.file]) as stream:
            return read_header(stream)

    def read(self, item: Item) -> Decoded:
        self._check(item)
        with damage_is_rejected(), self._open_file(self._names[item.file]) as stream:
            data = stream.read()
        return decode(data)

    def _check(self, item: Item) -> None:
        if item.file in self._strays:
            raise RejectedError("lies beside the class folders, so it has no class")
        check_length(self._sizes[item.file])


class ArraySource:
    """Pixels that are decoded already, (N, H, W, C) uint8 or float."""

    def __init__(
        self,
        name: str,
        images: NDArray[Any],
        labels: NDArray[np.int64] | None,
        class_names: tuple[str, ...],
    ) -> None:
        self._low = check_images(name, images)
        self.class_names = class_names
        self.items = [
            Item(f"{name}[{i}]", None if labels is None else int(labels[i]), i)
            for i in range(len(images))
        ]
        self._images = images

    def header(self, item: Item) -> Header:
        height, width, channels = self._images.shape[1:]
        return Header(side=min(height, width), grey=channels == 1)

    def read(self, item: Item) -> Decoded:
        pixels = to_pixels(self._images[item.key], self._low)
        return Decoded(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), ())


@contextmanager
def open_source(path: Path, *, max_files: int, max_bytes: int, scratch: Path) -> Generator[Source]:
    """Whatever `path` is, as a source; raises DataError if it is nothing that can be read.

    scratch: an existing directory for what has to be unpacked on the way.
    """
    if path.is_dir():
        yield _packed(path) if is_packed(path) else _folder(path, max_files, max_bytes)
    elif not path.exists():
        raise DataError(f"{str(path)!r} does not exist; give {SOURCES}.")
    elif path.suffix == ".npy":
        yield _array_source(path.name, open_npy(path, path.name), None, max_files)
    elif path.suffix == ".npz":
        yield _npz(path, max_files, max_bytes, scratch)
    elif path.suffix == ".zip" or zipfile.is_zipfile(path):
        with open_archive(path, max_files, max_bytes) as archive:
            yield _zip(path, archive)
    else:
        raise DataError(f"{path.name!r} is not something images can be read from; give {SOURCES}.")


# ── packed dataset ───────────────────────────────────────────────────────────────────────────


def _packed(path: Path) -> Source:
    dataset = load_dataset(path)
    return ArraySource("images.npy", dataset.images, dataset.labels, dataset.class_names)


# ── folder ───────────────────────────────────────────────────────────────────────────────────


def _folder(root: Path, max_files: int, max_bytes: int) -> Source:
    real = root.resolve()
    sizes: dict[str, int] = {}
    folders: set[str] = set()
    for entry in _walk(real):
        relative = Path(entry.path).relative_to(real).as_posix()
        if is_junk(relative):
            continue
        _refuse_escape(entry, relative, real)
        if entry.is_dir():
            folders.add(relative)
            continue
        status = entry.stat()
        sizes[relative] = status.st_size if stat.S_ISREG(status.st_mode) else 0
        if len(sizes) > max_files:
            raise DataError(f"{root.name!r} holds more than the {max_files:,} files of max_files.")
    total = sum(sizes.values())
    if total > max_bytes:
        raise DataError(
            f"The files of {root.name!r} have {total:,} bytes; max_bytes allows {max_bytes:,}."
        )
    if not sizes:
        raise DataError(f"{root.name!r} holds no files; put images or class folders in it.")
    return FileSource({f: real / f for f in sizes}, folders, _open_path, sizes)


def _open_path(path: Path) -> BinaryIO:
    return path.open("rb")


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False) and not is_junk(entry.name):
                yield from _walk(Path(entry.path))


def _refuse_escape(entry: os.DirEntry[str], relative: str, root: Path) -> None:
    """A link to a file inside the folder is a file; every other link is refused."""
    if not entry.is_symlink():
        return
    target = Path(entry.path).resolve()
    if entry.is_dir() or not target.is_file() or not target.is_relative_to(root):
        raise DataError(
            f"{relative!a} of {root.name!r} is a symbolic link to a folder, to nothing or out"
            " of the folder; copy there what it points to."
        )


# ── zip ──────────────────────────────────────────────────────────────────────────────────────


def _zip(path: Path, archive: zipfile.ZipFile) -> Source:
    names: dict[str, str] = {}
    folders: set[str] = set()
    for entry in archive.infolist():
        name = normal_name(entry.filename)
        if is_junk(name) or name == ".":
            continue
        if entry.is_dir():
            folders.add(name)
        else:
            names[name] = entry.filename
    if not names:
        raise DataError(f"Zip {path.name!r} holds no files; put images or class folders in it.")
    sizes = {name: archive.getinfo(entry).file_size for name, entry in names.items()}
    return FileSource(names, folders, lambda entry: open_entry(archive, entry), sizes)


# ── NumPy ────────────────────────────────────────────────────────────────────────────────────


def _npz(path: Path, max_files: int, max_bytes: int, scratch: Path) -> Source:
    with open_archive(path, max_files, max_bytes) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        key = "images" if "images" in names else names[0] if len(names) == 1 else None
        if key is None:
            raise DataError(
                f"{path.name!r} holds {', '.join(map(repr, names)) or 'no arrays'}; name the array"
                " of images 'images' (and that of classes 'labels')."
            )
        images = _member(archive, path, key, scratch)
        labels = _member(archive, path, "labels", scratch) if "labels" in names else None
    return _array_source(f"{path.name}:{key}", images, labels, max_files)


def _member(archive: zipfile.ZipFile, path: Path, key: str, scratch: Path) -> NDArray[Any]:
    """One array of an .npz by way of the disk, where it can be mapped instead of held."""
    target = scratch / ("images.npy" if key != "labels" else "labels.npy")
    unpack_entry(archive, f"{key}.npy", target)
    return open_npy(target, f"{path.name}:{key}")


def _array_source(
    name: str, images: NDArray[Any], labels: NDArray[Any] | None, max_files: int
) -> Source:
    if images.ndim == 3:
        images = images[..., None]  # (N, H, W) → (N, H, W, 1)
    if images.ndim > 0 and len(images) > max_files:
        raise DataError(f"{name!r} holds {len(images):,} images; max_files allows {max_files:,}.")
    if labels is None:
        return ArraySource(name, images, None, ())
    indices = check_labels(name, labels, len(images))
    count = int(indices.max()) + 1
    # Padded, so that code-point order is the order of the numbers.
    names = tuple(f"{i:0{len(str(count - 1))}d}" for i in range(count))
    return ArraySource(name, images, indices, names)
