"""Owns which images of a packed dataset are nearly the same: found by hash, checked by pixels.

A search through all pairs of 100,000 images takes longer than decoding them. Hashes that differ in
few bits are near each other in at least one of eight sorted orders, each of which begins at another
byte; so only near places are compared. That finds most pairs, not all, in bounded time.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.data.rows import Rows
from training.data.survey import Survey

NONE = -1
_BITS = 6  # hashes may differ in so many
_PLACES = 16  # how far apart in a sorted order hashes are compared
_ORDERS = range(0, 64, 8)
_MAX_TRIES = 8  # pairs of one image whose pixels are looked at
_MOST_PAIRS = 200_000  # of all images: where all are alike, some seconds are enough
_PAIRS, _CELLS = 512, 8192  # at a time, of images and of their cells
# Two images may differ by so many levels of 255 in brightness; once that is taken away, their
# root mean square difference is this share of the smaller standard deviation, or two levels.
_BRIGHTNESS, _DIFFERENCE, _LEVELS = 12.0, 1 / 3, 2.0


def near_duplicates(rows: Rows, looked: Survey, skip: NDArray[np.bool_]) -> NDArray[np.int32]:
    """For each of N images the number of an earlier one that it nearly equals, or NONE: int32 (N,).

    skip: bool (N,), images that are left out.
    """
    hashes = looked.hashes
    found = np.full(len(hashes), NONE, np.int32)
    tries, left = np.zeros(len(hashes), np.uint8), _MOST_PAIRS
    kept = np.flatnonzero(~skip).astype(np.int32)
    for shift in _ORDERS:
        turned = (hashes[kept] << np.uint64(shift)) | (hashes[kept] >> np.uint64(-shift % 64))
        order = kept[np.argsort(turned, kind="stable")]
        ordered = hashes[order]
        for places in range(1, min(_PLACES, len(order) - 1) + 1):
            close = np.bitwise_count(ordered[:-places] ^ ordered[places:]) <= _BITS
            earlier, later = np.sort([order[:-places][close], order[places:][close]], axis=0)
            is_open = (found[later] == NONE) & (tries[later] < _MAX_TRIES)
            earlier, later = earlier[is_open], later[is_open]
            alike = _agree(looked.cells.__getitem__, _CELLS, earlier, later)
            earlier, later = earlier[alike][:left], later[alike][:left]
            left -= len(later)
            tries[later] += 1
            same = _agree(rows.take, _PAIRS, earlier, later)
            found[later[same]] = earlier[same]
            if not left:
                return found
    return found


def _agree(
    take: Callable[[NDArray[np.int32]], NDArray[np.uint8]],
    at_once: int,
    first: NDArray[np.int32],
    second: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Which pairs of numbers have arrays that agree, some at a time: bool (n,)."""
    verdicts = [np.zeros(0, np.bool_)]
    for start in range(0, len(first), at_once):
        part = slice(start, start + at_once)
        verdicts.append(_alike(take(first[part]), take(second[part])))
    return np.concatenate(verdicts)


def _alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pairs of n arrays agree but for a little, brightness aside: bool (n,)."""
    shape = len(first), int(np.prod(first.shape[1:]))
    a, b = (x.reshape(shape).astype(np.float32) for x in (first, second))
    brightness = a.mean(1) - b.mean(1)
    apart = np.sqrt(np.square(a - b - brightness[:, None]).mean(1))
    same = apart <= np.maximum(_LEVELS, _DIFFERENCE * np.minimum(a.std(1), b.std(1)))
    return same & (np.abs(brightness) <= _BRIGHTNESS)
