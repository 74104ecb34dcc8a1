"""Owns where images come from: folders, zips, NumPy, IDX and CIFAR files, all read alike."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from training.data.archives import MAX_ZIP_RATIO, Archive, check_no_archive, open_archive
from training.data.arrays import (
    Part,
    check_class_names,
    check_count,
    check_images,
    check_labels,
    numbered_names,
    open_npy,
    to_pixels,
)
from training.data.cifar import is_cifar, open_cifar
from training.data.dataset import DataError, is_packed, load_dataset
from training.data.decode import MAX_IMAGE_BYTES, RejectedError
from training.data.folders import Folder, plain_file
from training.data.idx import is_idx_images, open_idx, set_of
from training.data.labels import find_label_file, label_files, lay_out_by_rows, read_rows
from training.data.layout import Layout, common_folder, is_junk, lay_out
from training.data.names import Names, printable
from training.data.subsets import chosen, wanted_classes

SOURCES = "a folder, a .zip, a .npy, a .npz, an IDX file, a CIFAR binary batch or a packed dataset"
TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK"


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source: its name for people, its class, and where its source finds it."""

    file: str
    label: int | None
    key: int


class Items(Sequence[Item]):
    """The images of a source by number, each made when it is asked for: there may be many."""

    def __init__(self, count: int, make: Callable[[int], Item]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        numbers = range(self._count)[index]
        return self._make(numbers) if isinstance(numbers, int) else [*map(self._make, numbers)]


class Source(Protocol):
    """Images that can be asked for one by one; class_names is () when unlabelled."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def read(self, item: Item) -> bytes | NDArray[np.uint8]:
        """An encoded file, or finished pixels (H, W, C); raises RejectedError."""
        ...


class Files(Protocol):
    """A folder or an archive; names: sorted, without what is never an image."""

    @property
    def names(self) -> Names: ...

    @property
    def folders(self) -> Collection[str]: ...

    def read(self, index: int) -> bytes:
        """Raises RejectedError."""
        ...


class FileSource:
    """Encoded image files, whose classes are their folders or stand in a label file."""

    def __init__(self, shown: str, files: Files, labels: Path | None) -> None:
        """labels: a label file of somebody's choice; raises DataError."""
        self._files = files
        kept = array("L", (i for i, name in enumerate(files.names) if not is_junk(name)))
        everything = files.names.only(kept)
        if beside := set(label_files(everything)):
            kept = array("L", (i for i in kept if files.names[i] not in beside))
        self._kept, self._names = kept, files.names.only(kept)
        if not self._names:
            raise DataError(f"{shown!r} holds no files; put images or class folders in it.")
        self._layout = self._lay_out(everything, labels)
        self.class_names = self._layout.class_names
        self.items = Items(len(self._names), self._item)

    def read(self, item: Item) -> bytes:
        if item.label is None and self.class_names:
            raise RejectedError(self._layout.no_class)
        data = self._files.read(self._kept[item.key])
        check_no_archive(data)
        return data

    def _item(self, index: int) -> Item:
        label = self._layout.labels[index]
        return Item(printable(self._names[index]), None if label < 0 else label, index)

    def _lay_out(self, everything: Names, labels: Path | None) -> Layout:
        if labels is not None:
            name, data = labels.name, _label_bytes(labels)
        elif (found := find_label_file(everything)) is not None:
            name, data = printable(found), self._found_label_bytes(found)
        else:
            folders = {name for name in self._files.folders if not is_junk(name)}
            return lay_out(self._names, folders)
        top = common_folder(everything)
        return lay_out_by_rows(name, read_rows(name, data), self._names, top)

    def _found_label_bytes(self, name: str) -> bytes:
        at = next(i for i, other in enumerate(self._files.names) if other == name)
        try:
            return self._files.read(at)
        except RejectedError as e:
            raise DataError(f"The label file {name!r} {e}.") from e


def _label_bytes(path: Path) -> bytes:
    try:
        with plain_file(path.resolve()) as f:
            data = f.read(MAX_IMAGE_BYTES + 1)
    except OSError as e:
        raise DataError(f"The label file {str(path)!r} cannot be read ({e.strerror}).") from e
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(
            f"The label file {str(path)!r} is longer than {MAX_IMAGE_BYTES:,} bytes; expected a"
            " line for each image."
        )
    return data


class ArraySource:
    """Pixels that are decoded already, uint8 or float, in one array or several of one shape."""

    def __init__(self, parts: Sequence[Part], class_names: tuple[str, ...]) -> None:
        images = [part.with_channels() for part in parts]
        shapes = {array.shape[1:] for array in images}
        if len(shapes) > 1:
            raise DataError(
                f"{parts[0].name!r} and what lies beside it hold images of shapes"
                f" {' and '.join(map(str, sorted(shapes)))}; import them one by one."
            )
        black = [check_images(part.name, a) for part, a in zip(parts, images, strict=True)]
        self.class_names = class_names
        self._parts, self._images, self._black = parts, images, black
        self._starts = [0, *accumulate(map(len, images))]
        self.items = Items(self._starts[-1], self._item)

    def read(self, item: Item) -> NDArray[np.uint8]:
        which, at = self._find(item.key)
        return to_pixels(self._images[which][at], self._black[which])

    def _item(self, index: int) -> Item:
        which, at = self._find(index)
        part = self._parts[which]
        label = None if part.labels is None else int(part.labels[at])
        return Item(f"{printable(part.name)}[{at}]", label, index)

    def _find(self, index: int) -> tuple[int, int]:
        """The part that holds an image, and its place in it."""
        which = bisect_right(self._starts, index) - 1
        return which, index - self._starts[which]


class Subset:
    """Some images of a source, and only the classes that they are of."""

    def __init__(self, source: Source, kept: Sequence[int], classes: Sequence[int]) -> None:
        """kept: numbers of items. classes: indices of those that stay, in their order."""
        self._source, self._kept = source, np.array(kept, np.int64)
        self._index = {old: new for new, old in enumerate(classes)}
        self.class_names = tuple(source.class_names[i] for i in classes)
        self.items = Items(len(kept), self._item)

    def read(self, item: Item) -> bytes | NDArray[np.uint8]:
        return self._source.read(item)

    def _item(self, index: int) -> Item:
        item = self._source.items[int(self._kept[index])]
        label = None if item.label is None else self._index[item.label]
        return Item(item.file, label, item.key)


def select(
    source: Source, shown: str, classes: Collection[str] | None, max_per_class: int | None
) -> Source:
    """The images of `classes` only, and at most so many of each; None: all. Raises DataError.

    Without classes max_per_class counts all images. Files that have no class beside others that
    have one stay, to be told of.
    """
    if classes is None and max_per_class is None:
        return source
    names = source.class_names
    wanted = range(len(names)) if classes is None else wanted_classes(shown, names, classes)
    kept = [i for i, item in enumerate(source.items) if item.label is None or item.label in wanted]
    if max_per_class is not None:
        kept = _few_of_each(source, kept, max_per_class)
    return Subset(source, kept, wanted)


def _few_of_each(source: Source, kept: list[int], most: int) -> list[int]:
    """Of numbered items at most `most` of each class, chosen by name, or by place in an array."""
    items = source.items
    of_class = [i for i in kept if items[i].label is not None or not source.class_names]
    labels = [-1 if (label := items[i].label) is None else label for i in of_class]
    top = common_folder([item.file for item in (items[0], items[len(items) - 1])])
    arrays = isinstance(source, ArraySource)

    def name_of(number: int) -> str:
        place = of_class[number]
        return str(place) if arrays else items[place].file.removeprefix(top)

    few = {of_class[number] for number in chosen(labels, name_of, most)}
    left = few.union(kept).difference(of_class) if len(of_class) < len(kept) else set[int]()
    return sorted(few | left)


@contextmanager
def open_source(
    path: Path,
    *,
    max_files: int,
    max_bytes: int,
    scratch: Path,
    max_zip_ratio: int = MAX_ZIP_RATIO,
    max_image_bytes: int = MAX_IMAGE_BYTES,
    labels: Path | None = None,
    classes: Collection[str] | None = None,
    max_per_class: int | None = None,
) -> Generator[Source]:
    """Whatever `path` is, as a source; raises DataError if it is nothing that can be read.

    scratch: an existing directory for what has to be unpacked on the way. labels: a file of file →
    class, for a folder or a zip. classes, max_per_class: as in `select`.
    """
    bounds = _Bounds(max_files, max_bytes, max_zip_ratio, max_image_bytes, scratch)
    with _opened(path, bounds, labels) as source:
        if labels is not None and not isinstance(source, FileSource):
            raise DataError(f"labels is for folders and zips of images; {path.name!r} is neither.")
        yield select(source, path.name, classes, max_per_class)


@dataclass(frozen=True)
class _Bounds:
    max_files: int
    max_bytes: int
    max_zip_ratio: int
    max_image_bytes: int
    scratch: Path


@contextmanager
def _opened(path: Path, bounds: _Bounds, labels: Path | None) -> Generator[Source]:
    magic = b"" if path.is_dir() else _first_bytes(path)
    if path.is_dir():
        yield _folder(path, bounds, labels)
    elif path.name.lower().endswith(TAR_SUFFIXES):
        raise DataError(
            f"{path.name!r} is a tar archive, which is not read from; unpack it and give the"
            " folder, or make a zip of that."
        )
    elif is_idx_images(path.name):
        yield _idx([path], bounds)
    elif is_cifar(path.name):
        yield _cifar([path], bounds)
    elif path.suffix == ".npy" or magic.startswith(NPY_MAGIC):
        yield _arrays(Part(path.name, open_npy(path, path.name), None), None, bounds)
    elif path.suffix in (".zip", ".npz") or magic.startswith(ZIP_MAGIC):
        with _archive(path, bounds) as archive:
            if path.suffix == ".npz" or _is_npz(archive):
                yield _npz(path, archive, bounds)
            else:
                yield FileSource(path.name, archive, labels)
    else:
        raise DataError(f"{path.name!r} is not something images can be read from; give {SOURCES}.")


def _archive(path: Path, bounds: _Bounds) -> AbstractContextManager[Archive]:
    return open_archive(
        path, bounds.max_files, bounds.max_bytes, bounds.max_zip_ratio, bounds.max_image_bytes
    )


def _is_npz(archive: Archive) -> bool:
    """Whether a zip of another name holds arrays: an upload has the name that it was given."""
    return bool(archive.names) and all(name.endswith(".npy") for name in archive.names)


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise DataError(f"{str(path)!r} does not exist; give {SOURCES}.")
    if not path.is_file():  # to open a pipe would be to wait for whoever writes to it
        raise DataError(f"{str(path)!r} is not a regular file; give {SOURCES}.")
    with path.open("rb") as f:
        return f.read(len(NPY_MAGIC))


# ── folder ───────────────────────────────────────────────────────────────────────────────────


def _folder(path: Path, bounds: _Bounds, labels: Path | None) -> Source:
    if is_packed(path):
        dataset = load_dataset(path)
        return ArraySource(
            [Part("images.npy", dataset.images, dataset.labels)], dataset.class_names
        )
    if found := _beneath(path, is_idx_images):
        return _idx(found, bounds)
    if found := _beneath(path, is_cifar):
        return _cifar(found, bounds)
    files = Folder(path, bounds.max_files, bounds.max_bytes, bounds.max_image_bytes)
    return FileSource(path.name, files, labels)


def _beneath(path: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """The files right in a folder whose names are wanted, in their order."""
    return sorted(p for p in path.iterdir() if wanted(p.name))


# ── IDX and CIFAR ────────────────────────────────────────────────────────────────────────────


def _idx(paths: list[Path], bounds: _Bounds) -> Source:
    if len({set_of(path.name) for path in paths}) > 1:
        raise DataError(
            f"{paths[0].parent.name!r} holds {', '.join(repr(p.name) for p in paths[:5])}, which"
            " are not parts of one set; import one of them."
        )
    parts = [open_idx(p, bounds.max_files, bounds.max_bytes, bounds.scratch) for p in paths]
    check_count(paths[0].parent.name, sum(len(part.images) for part in parts), bounds.max_files)
    labels = [part.labels for part in parts if part.labels is not None]
    if labels and len(labels) < len(parts):
        bare = next(part.name for part in parts if part.labels is None)
        raise DataError(
            f"{bare!r} has no file of labels beside it, others of its folder have; bring it, or"
            " import the files one by one."
        )
    return ArraySource(parts, numbered_names(np.concatenate(labels)) if labels else ())


def _cifar(paths: list[Path], bounds: _Bounds) -> Source:
    return ArraySource(*open_cifar(paths, bounds.max_files))


# ── NumPy ────────────────────────────────────────────────────────────────────────────────────


def _npz(path: Path, archive: Archive, bounds: _Bounds) -> Source:
    names = [n.removesuffix(".npy") for n in archive.names if n.endswith(".npy")]
    key = "images" if "images" in names else names[0] if len(names) == 1 else None
    if key is None:
        listed = ", ".join(f"'{printable(name)}'" for name in names[:5]) or "no arrays"
        raise DataError(
            f"{path.name!r} holds {listed}; name the array of images 'images' (and that of classes"
            " 'labels', their names 'class_names')."
        )
    members = {
        name: _member(archive, path, name, bounds.scratch)
        for name in {key, "labels", "class_names"} & set(names)
    }
    part = Part(f"{path.name}:{key}", members[key], members.get("labels"))
    return _arrays(part, members.get("class_names"), bounds)


def _member(archive: Archive, path: Path, key: str, scratch: Path) -> NDArray[Any]:
    """One array of an .npz by way of the disk, where it can be mapped instead of held."""
    at, target = archive.names.index(f"{key}.npy"), scratch / f"{len(list(scratch.iterdir()))}.npy"
    try:
        archive.unpack(at, target)
    except RejectedError as e:
        raise DataError(f"Entry '{key}.npy' of {path.name!r} {e}; save it again.") from e
    return open_npy(target, f"{path.name}:{key}")


def _arrays(part: Part, names: NDArray[Any] | None, bounds: _Bounds) -> Source:
    """A source of one array, with its labels and the names of its classes, if it has any."""
    if part.images.ndim:
        check_count(part.name, len(part.images), bounds.max_files)
    if part.labels is None:
        if names is not None:
            raise DataError(f"{part.name!r} has 'class_names' without 'labels'; save both.")
        return ArraySource([part], ())
    labels = check_labels(f"'labels' beside {part.name!r}", part.labels, len(part.images))
    labelled = Part(part.name, part.images, labels)
    if names is None:
        return ArraySource([labelled], numbered_names(labels))
    return ArraySource([labelled], _class_names(part.name, names, labels))


def _class_names(name: str, names: NDArray[Any], labels: NDArray[np.int64]) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(
            f"'class_names' beside {name!r} is {names.dtype} of shape {names.shape}; expected text"
            " of one dimension: save it with numpy.array(names, dtype=str)."
        )
    told = tuple(map(str, names))
    check_class_names(f"'class_names' beside {name!r}", told, labels)
    return told
