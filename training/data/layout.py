"""Owns what the folders of a source mean: which file is of which class, and what is no file."""

import os
import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from training.data.dataset import DataError

JUNK = re.compile(r"(^|/)(\.|(__macosx|thumbs\.db|desktop\.ini|icon\r)(/|$))", re.IGNORECASE)
MAX_CLASS_NAME = 100
MAX_CLASSES = 10_000
NO_CLASS = -1


@dataclass(frozen=True)
class Layout:
    """class_names: () when unlabelled. labels: an index or NO_CLASS for each file, in their order.

    no_class: why a file of a labelled source has no class.
    """

    class_names: tuple[str, ...]
    labels: "array[int]"
    no_class: str


def is_junk(path: str) -> bool:
    """What operating systems leave in folders: dotfiles, __MACOSX, Thumbs.db, desktop.ini."""
    return JUNK.search(path) is not None


def lay_out(files: Sequence[str], folders: Collection[str]) -> Layout:
    """Read classes off relative paths: the first folder is the class; no folders, no classes.

    files: in code-point order. Folders that wrap everything (`mnist/0/1.png`) are looked through.
    `folders` may name empty ones: a class without images is somebody's mistake, and is reported
    later by its name. Raises DataError for a folder that cannot be a class.
    """
    depth = _wrapping_depth(files)
    tops = {_top(folder, depth) for folder in folders if folder.count("/") >= depth}
    inside = {_top(file, depth) for file in files if file.count("/") > depth}
    if not inside:
        return Layout((), array("i", [NO_CLASS]) * len(files), "")
    names = checked_class_names("Class folder", tops | inside)
    index = {name: i for i, name in enumerate(names)}
    labels = (index[_top(f, depth)] if f.count("/") > depth else NO_CLASS for f in files)
    return Layout(names, array("i", labels), "lies beside the class folders, so it has no class")


def checked_class_names(what: str, names: Collection[str]) -> tuple[str, ...]:
    """The names in code-point order; raises DataError if they cannot be those of classes."""
    for name in names:
        if not name or len(name) > MAX_CLASS_NAME or not name.isprintable():
            raise DataError(
                f"{what} {name[:200]!a} cannot be a class name: it wants 1 to {MAX_CLASS_NAME}"
                " printable characters; rename it."
            )
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"There are {len(names):,} classes; at most {MAX_CLASSES:,} are taken: give fewer, or"
            " images without classes in one folder."
        )
    return tuple(sorted(names))


def common_folder(files: Sequence[str]) -> str:
    """The path that all files begin with, up to a slash; "" if there is none. files: sorted."""
    if not files:
        return ""
    # What the first and the last of sorted names share, all between them share.
    shared = os.path.commonprefix([files[0], files[-1]])
    return shared[: shared.rfind("/") + 1]


def _wrapping_depth(files: Sequence[str]) -> int:
    """How many leading folders all files share, at least one folder below them left."""
    shared = common_folder(files).count("/")
    fewest = min((file.count("/") for file in files), default=0)
    return max(0, min(shared, fewest - 1))


def _top(path: str, depth: int) -> str:
    return path.split("/")[depth]
