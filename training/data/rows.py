"""Owns reading the images of a packed dataset without mapping them, which would count as memory."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import HASH_BLOCK_BYTES


@contextmanager
def open_rows(path: Path) -> "Generator[Rows]":
    """The images of an images.npy; raises OSError or ValueError if it is no array."""
    with path.open("rb") as file:
        yield Rows(file)


class Rows:
    """The images of an images.npy, uint8 (N, H, W, C), by number or from the first to the last."""

    def __init__(self, file: BinaryIO) -> None:
        np.lib.format.read_magic(file)
        self.shape, _, _ = np.lib.format.read_array_header_1_0(file)
        self._file, self._start = file, file.tell()
        self._row_bytes = int(np.prod(self.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """All images in order, some at a time: (n, H, W, C)."""
        step = max(1, HASH_BLOCK_BYTES // self._row_bytes)
        for first in range(0, len(self), step):
            yield self._read(first, min(step, len(self) - first))

    def take(self, numbers: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """The images of these numbers: (n, H, W, C)."""
        found = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for place, number in enumerate(numbers.tolist()):
            found[place] = self._read(number, 1)[0]
        return found

    def _read(self, first: int, count: int) -> NDArray[np.uint8]:
        self._file.seek(self._start + first * self._row_bytes)
        data = self._file.read(count * self._row_bytes)
        return np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
