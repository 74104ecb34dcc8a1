"""Owns what the folders of a source mean: which file is of which class, and what is no file."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from training.data.dataset import DataError

JUNK_NAMES = {"__macosx", "thumbs.db", "desktop.ini"}
MAX_CLASS_NAME = 100


@dataclass(frozen=True)
class Layout:
    """class_names: in code-point order, () when unlabelled. labels: path → index or None.

    strays: files that lie beside the class folders, and so belong to none.
    """

    class_names: tuple[str, ...]
    labels: dict[str, int | None]
    strays: frozenset[str]


def is_junk(path: str) -> bool:
    """What operating systems leave in folders: dotfiles, __MACOSX, Thumbs.db, desktop.ini."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part.lower() in JUNK_NAMES for part in parts)


def lay_out(files: Collection[str], folders: Collection[str]) -> Layout:
    """Read classes off relative paths: the first folder is the class; no folders, no classes.

    Folders that wrap everything (`mnist/0/1.png`) are looked through. `folders` may name empty
    ones: a class without images is somebody's mistake, and is reported later by its name.
    """
    depth = _wrapping_depth(files)
    parts = {f: PurePosixPath(f).parts[depth:] for f in files}
    if all(len(p) == 1 for p in parts.values()):
        return Layout((), dict.fromkeys(sorted(files)), frozenset())
    tops = {PurePosixPath(f).parts[depth] for f in folders if len(PurePosixPath(f).parts) > depth}
    tops.update(p[0] for p in parts.values() if len(p) > 1)
    names = tuple(sorted(_checked_class_name(top) for top in tops))
    index = {name: i for i, name in enumerate(names)}
    labels = {f: index[p[0]] if len(p) > 1 else None for f, p in sorted(parts.items())}
    return Layout(names, labels, frozenset(f for f, label in labels.items() if label is None))


def _wrapping_depth(files: Collection[str]) -> int:
    """How many leading folders all files share, at least one folder below them left."""
    parts = [PurePosixPath(f).parts for f in files]
    depth = 0
    while parts and len({p[depth] for p in parts}) == 1 and min(map(len, parts)) > depth + 2:
        depth += 1
    return depth


def _checked_class_name(name: str) -> str:
    if len(name) > MAX_CLASS_NAME or not name.isprintable():
        raise DataError(
            f"Class folder {name!a} cannot be a class name: it wants at most"
            f" {MAX_CLASS_NAME} printable characters; rename the folder."
        )
    return name
