"""Owns one look at all images of a packed dataset: their statistics, and a hash of each."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from training.data.rows import Rows

# Neighbouring cells count as equal within so many levels of 255, so that noise in flat parts of an
# image does not toss a coin for each bit.
_MARGIN = 1
_MIN_SIDE = 9
_MAX_FOR_STATISTICS = 10_000


@dataclass(frozen=True)
class Survey:
    """What the images are like.

    mean, std: of each channel over all pixels, in [0, 1]. cells: uint8 (N, 8, 9), of `cells_of`.
    hashes: uint64 (N,), of `gradients`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    cells: NDArray[np.uint8]
    hashes: NDArray[np.uint64]

    def to_json(self) -> dict[str, list[float]]:
        return {
            "mean": [round(value, 4) for value in self.mean],
            "std": [round(value, 4) for value in self.std],
        }


def survey(rows: Rows, scratch: Path) -> Survey:
    """Read every image once, N ≥ 1 of them; of many the statistics are of 10,000, evenly spread.

    scratch: a directory for the cells, which lie in a file without a name: kept in memory, they
    would be the most of it.
    """
    _, side, _, channels = rows.shape
    sums, squares = np.zeros((2, side * channels))
    step, num_lines = -(-len(rows) // _MAX_FOR_STATISTICS), 0
    hashes, done = np.empty(len(rows), np.uint64), 0
    with TemporaryFile(dir=scratch) as file:
        for block in rows.blocks():
            found = cells_of(block)
            file.write(found.round().astype(np.uint8).tobytes())
            hashes[done : done + len(block)] = gradients(found)
            done += len(block)
            lines = block[::step].reshape(-1, side * channels).astype(np.float32)
            sums += lines.sum(0)
            squares += np.square(lines).sum(0)
            num_lines += len(lines)
        file.flush()
        cells = np.memmap(file, np.uint8, "r", shape=(len(rows), 8, 9))
    mean = sums.reshape(side, channels).mean(0) / num_lines
    square = squares.reshape(side, channels).mean(0) / num_lines
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return Survey(tuple(mean / 255), tuple(std / 255), cells, hashes)


def cells_of(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Images uint8 (n, R, R, C) → the areas of an 8 × 9 raster, channels averaged: (n, 8, 9)."""
    if images.shape[1] < _MIN_SIDE:
        images = images.repeat(3, axis=1).repeat(3, axis=2)
    n, side, _, channels = images.shape
    rows, columns = np.arange(9) * side // 8, np.arange(9) * side // 9
    lines = images.reshape(n, side, side * channels)
    # 16 bits hold a band of 257 lines; the largest image has 128.
    bands = [lines[:, a:b].sum(1, dtype=np.uint16) for a, b in pairwise(rows)]
    sums = np.add.reduceat(np.stack(bands, 1), columns * channels, axis=2, dtype=np.uint32)
    return sums / (np.diff(rows)[:, None] * np.diff(columns, append=side) * channels)


def gradients(cells: NDArray[np.float64]) -> NDArray[np.uint64]:
    """A 64-bit difference hash of each image by its cells: is one brighter than its left one?

    Images that look alike differ in few bits. Source: Krawetz, "Kind of like that" (2013), dHash.
    """
    bits = cells[..., 1:] > cells[..., :-1] + _MARGIN
    return np.packbits(bits.reshape(-1, 64), axis=1).view(">u8")[:, 0].astype(np.uint64)
