"""Owns the binary batches of CIFAR-10 and CIFAR-100: 32×32 in colour, a label in front of each."""

import os
import re
from pathlib import Path

import numpy as np

from training.data.arrays import Part, check_class_names, check_count, numbered_names
from training.data.dataset import DataError
from training.data.folders import plain_file

TEN = re.compile(r"(data_batch_\d+|test_batch)\.bin")
HUNDRED = re.compile(r"(train|test)\.bin")
MAX_NAMES_BYTES = 1_000_000

_PIXELS = ("pixels", "u1", (3, 32, 32))
_RECORDS = {
    "batches.meta.txt": np.dtype([("label", "u1"), _PIXELS]),
    "fine_label_names.txt": np.dtype([("coarse", "u1"), ("label", "u1"), _PIXELS]),
}


def is_cifar(name: str) -> bool:
    """Whether a file has a name that CIFAR's batches have."""
    return names_file(name) is not None


def names_file(name: str) -> str | None:
    """The file that names the classes of a batch, by the name of the batch."""
    if TEN.fullmatch(name):
        return "batches.meta.txt"
    return "fine_label_names.txt" if HUNDRED.fullmatch(name) else None


def open_cifar(paths: list[Path], max_files: int) -> tuple[list[Part], tuple[str, ...]]:
    """The images of batches of one kind, and the names of their classes; raises DataError.

    Of CIFAR-100's two labels the fine one counts. Without a file of names, numbers are the names.
    """
    kinds = {names_file(path.name) for path in paths}
    if len(kinds) > 1:
        raise DataError(
            f"{paths[0].parent.name!r} holds batches of CIFAR-10 and of CIFAR-100; import one of"
            " them."
        )
    beside = paths[0].with_name(str(kinds.pop()))
    parts = [_part(path, _RECORDS[beside.name]) for path in paths]
    check_count(paths[0].parent.name, sum(len(part.images) for part in parts), max_files)
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    if not beside.exists():
        return parts, numbered_names(labels)
    names = _read_names(beside)
    check_class_names(repr(beside.name), names, labels)
    return parts, names


def _part(path: Path, record: np.dtype) -> Part:
    with plain_file(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size == 0 or size % record.itemsize:
            raise DataError(
                f"{path.name!r} is {size:,} bytes long; expected a multiple of {record.itemsize:,},"
                " the bytes of one image and its label: get it again."
            )
        rows = np.memmap(f, record, "r")
    images = rows["pixels"].transpose(0, 2, 3, 1)  # (N, 3, 32, 32) → (N, 32, 32, 3)
    return Part(path.name, images, rows["label"].astype(np.int64))


def _read_names(path: Path) -> tuple[str, ...]:
    with plain_file(path) as f:
        data = f.read(MAX_NAMES_BYTES + 1)
    try:
        lines = data[:MAX_NAMES_BYTES].decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        raise DataError(f"{path.name!r} is not UTF-8 ({e.reason}); save it as UTF-8.") from e
    return tuple(line.strip() for line in lines if line.strip())
